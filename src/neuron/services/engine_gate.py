"""Who may be in an engine at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class EngineGate:
    """Lets many users in together, or one that must be alone; first come, first served.

    A job under which engines died twice runs alone: what happens then is its own doing, and no
    neighbour pays for it.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._closed = False
        self._waiting: deque[tuple[asyncio.Future[None], bool]] = deque()

    @asynccontextmanager
    async def hold(self, *, alone: bool) -> AsyncIterator[None]:
        """Be inside for the length of the block. Cancelling the wait leaves the queue."""
        await self.enter(alone=alone)
        try:
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """Be inside no more."""
        self._inside -= 1
        self._closed = False
        if self._waiting:
            self._admit()

    async def enter(self, *, alone: bool) -> None:
        """Come in, until leave(). Cancelling the wait leaves the queue."""
        if not self._waiting and self._has_room(alone=alone):
            self._let_in(alone=alone)
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (place, alone)
        self._waiting.append(entry)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif place.done() and not place.cancelled():
                self._inside -= 1
                self._closed = False
            self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self._has_room(alone=self._waiting[0][1]):
            place, alone = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                self._let_in(alone=alone)

    def _has_room(self, *, alone: bool) -> bool:
        return not self._closed and not (alone and self._inside)

    def _let_in(self, *, alone: bool) -> None:
        self._inside += 1
        self._closed = alone
