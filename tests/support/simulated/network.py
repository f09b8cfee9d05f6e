"""The net between everybody and CORTEX: it loses, repeats, delays, reorders and is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from .world import Deed, Process, World

Reply = Callable[[Any], None]
Request = Callable[[], Any]


class Server(Protocol):
    """Who is asked."""

    def receive(self, request: Request, reply: Reply) -> None: ...


@dataclass(frozen=True, slots=True)
class Weather:
    """Shares of messages that are lost, doubled, held up; by how much at most, in seconds."""

    lost: float = 0.0
    doubled: float = 0.0
    slow: float = 0.0
    slowest_seconds: float = 12.0


class Call:
    """A question and its answer; the first answer counts, unless the caller has given up."""

    def __init__(self, settle: Callable[[Any], None], fail: Deed) -> None:
        self._settle = settle
        self._fail = fail
        self._is_open = True

    def settle(self, answer: Any) -> None:
        if self._is_open:
            self._is_open = False
            self._settle(answer)

    def give_up(self) -> None:
        if self._is_open:
            self._is_open = False
            self._fail()


class Network:
    """Carries calls to CORTEX and the answers back."""

    def __init__(self, world: World, server: Server, weather: Weather) -> None:
        self.weather = weather
        self.cut_off: set[str] = set()
        """Processes, by name, that nothing reaches and that reach nothing."""
        self._world = world
        self._server = server

    def ask(
        self,
        caller: Process,
        request: Request,
        settle: Callable[[Any], None],
        fail: Deed,
        *,
        patience_seconds: float = 2.0,
        steady: bool = False,
    ) -> None:
        """Have CORTEX do `request`; then `settle(answer)` or `fail()` in the caller, once.

        A request may be done though it failed for the caller, later too, and more than once;
        a `steady` one is never doubled or held up.
        """
        call = Call(settle, fail)

        def reply(answer: Any) -> None:
            self._send(caller.name, partial(call.settle, answer), caller, steady)

        caller.after(patience_seconds, call.give_up)
        self._send(caller.name, partial(self._server.receive, request, reply), None, steady)

    def _send(self, peer: str, deed: Deed, to: Process | None, steady: bool) -> None:
        world, weather = self._world, self.weather
        if peer in self.cut_off:
            world.fired["message cut off"] += 1
            return
        if world.chance(weather.lost):
            world.fired["message lost"] += 1
            return
        copies = 1
        if not steady and world.chance(weather.doubled):
            world.fired["message doubled"] += 1
            copies = 2
        for _ in range(copies):
            delay = world.between(0.001, 0.02)
            if not steady and world.chance(weather.slow):
                world.fired["message held up"] += 1
                delay += world.between(0, weather.slowest_seconds)
            world.after(delay, deed, to)
