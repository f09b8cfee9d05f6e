"""Hearing within milliseconds what CORTEX asks, once each, whichever way it comes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import ClassVar, Protocol

import structlog

from ..errors import NeuronError, WorkerUnknownError
from ..models.action import Action
from ..utils.retry import Backoff
from .identity import Registrar
from .service import Service

logger = structlog.get_logger(__name__)

REMEMBERED_ACTIONS = 4096


class WatchingClient(Protocol):
    """What listening asks of a CORTEX client."""

    def watch_actions(self, worker_id: str) -> AsyncIterator[Action | None]: ...


class ActionHandler(Protocol):
    """Who carries actions out. handle() returns at once: the worker's loops do the work."""

    def handle(self, action: Action) -> None: ...


class StreamObserver(Protocol):
    """Who must know whether CORTEX can see that this worker lives."""

    def stream_opened(self) -> None: ...

    def stream_broken(self) -> None: ...


class ActionInbox:
    """Hands each action to the handler once, and remembers which CORTEX must hear of as done."""

    def __init__(self, handler: ActionHandler) -> None:
        self._handler = handler
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._unacknowledged: dict[str, None] = {}

    @property
    def unacknowledged(self) -> list[str]:
        """Ids of actions carried out that no heartbeat has told CORTEX of yet."""
        return list(self._unacknowledged)

    def receive(self, action: Action) -> bool:
        """Carry an action out unless it came before; return whether it was new."""
        if action.action_id in self._seen:
            # CORTEX repeats it, so it has not heard of the acknowledgement.
            self._unacknowledged[action.action_id] = None
            return False
        self._seen[action.action_id] = None
        while len(self._seen) > REMEMBERED_ACTIONS:
            self._seen.popitem(last=False)
        logger.warning(
            "heartbeat_action_received",
            action=action.kind.value,
            action_id=action.action_id,
            message=action.reason,
        )
        self._handler.handle(action)
        self._unacknowledged[action.action_id] = None
        return True

    def heartbeat_answered(self, actions: list[Action], acknowledged: list[str]) -> None:
        """A heartbeat told CORTEX of `acknowledged`; carry out what its answer repeats."""
        for action_id in acknowledged:
            self._unacknowledged.pop(action_id, None)
        for action in actions:
            if action.action_id not in acknowledged:
                self.receive(action)


class ActionListener(Service):
    """Keeps the action stream open, reconnecting with backoff; heartbeats cover the gaps."""

    name: ClassVar[str] = "action_listener"

    def __init__(
        self,
        client: WatchingClient,
        registrar: Registrar,
        inbox: ActionInbox,
        observer: StreamObserver | None = None,
    ) -> None:
        super().__init__()
        self._observer = observer
        self._is_open = False
        self._leaving = False
        self._client = client
        self._registrar = registrar
        self._inbox = inbox

    def expect_goodbye(self) -> None:
        """The worker leaves: when its stream ends now, open no other and register no more."""
        self._leaving = True

    async def run(self) -> None:
        """Listen until cancelled."""
        backoff = Backoff(initial=0.1, maximum=3.0)
        while not self._leaving:
            try:
                await self._listen(backoff)
            except WorkerUnknownError:
                if not self._leaving:
                    await self._registrar.register_again()
            except NeuronError as error:
                logger.debug("action_stream_broken", error=error.message)
            self._note(is_open=False)
            await asyncio.sleep(backoff.next_delay())

    async def _listen(self, backoff: Backoff) -> None:
        async for action in self._client.watch_actions(self._registrar.worker_id):
            backoff.reset()
            self._note(is_open=True)
            if action is not None:
                self._inbox.receive(action)

    def _note(self, *, is_open: bool) -> None:
        if is_open == self._is_open:
            return
        self._is_open = is_open
        if self._observer is None:
            return
        if is_open:
            self._observer.stream_opened()
        else:
            self._observer.stream_broken()
