"""Simulated time: what is to happen, in its order, and what has happened, in words."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable

Deed = Callable[[], object]


class Timer:
    """Something that is to be done."""

    __slots__ = ("deed",)

    def __init__(self, deed: Deed) -> None:
        self.deed: Deed | None = deed

    def cancel(self) -> None:
        """Have it not done."""
        self.deed = None

    def fire(self) -> None:
        """Do it, once."""
        deed, self.deed = self.deed, None
        if deed is not None:
            deed()


class World:
    """The time, the one source of chance, the trace. The same seed gives the same trace."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.trace: list[str] = []
        self.fired: Counter[str] = Counter()
        """How often what happened: faults, and what came of them."""
        self._agenda: list[tuple[float, int, Timer, Process | None]] = []
        self._order = itertools.count()

    def after(self, seconds: float, deed: Deed, process: Process | None = None) -> Timer:
        """Do it in so many seconds, in a process if one is named: not if that has died by then."""
        timer = Timer(deed)
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), timer, process))
        return timer

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, timer, process = heapq.heappop(self._agenda)
            if process is None:
                timer.fire()
            else:
                process.take(timer)
        self.now = until

    def note(self, who: str, what: str) -> None:
        """Write a line of the trace."""
        self.trace.append(f"{self.now:9.3f}  {who:<8} {what}")

    def chance(self, share: float) -> bool:
        """Whether what happens so often happens now."""
        return self.random.random() < share

    def between(self, least: float, most: float) -> float:
        """Some number in between."""
        return least + (most - least) * self.random.random()


class Process:
    """Something that can die, or stand still and go on; its clock may be fast or slow."""

    def __init__(self, world: World, name: str, clock_rate: float = 1.0) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.paused = False
        self._clock_rate = clock_rate
        self._missed: list[Timer] = []

    def clock(self) -> float:
        """What its own clock shows."""
        return self.world.now * self._clock_rate

    def after(self, seconds: float, deed: Deed) -> Timer:
        """Do it in so many seconds of its clock."""
        return self.world.after(seconds / self._clock_rate, deed, self)

    def take(self, timer: Timer) -> None:
        """Do it now, or on waking, or never."""
        if self.paused and self.alive:
            self._missed.append(timer)
        elif self.alive:
            timer.fire()

    def die(self) -> None:
        """kill -9."""
        self.alive = False
        self._missed.clear()

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True

    def wake(self) -> None:
        """SIGCONT: what came meanwhile is done now, in its order, after what on_wake does."""
        if not (self.paused and self.alive):
            return
        self.paused = False
        self.on_wake()
        missed, self._missed = self._missed, []
        for timer in missed:
            if self.alive:
                timer.fire()

    def on_wake(self) -> None:
        """What comes first."""
