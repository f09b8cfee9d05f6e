"""Telling all who wait that something has changed."""

from __future__ import annotations

import asyncio


class ChangeSignal:
    """Wakes whoever waits; those that come later wait for the next change.

    Unlike an Event it has nothing to clear, so no waiter can miss a change because another
    cleared it. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def notify(self) -> None:
        """Wake all who wait now."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Return at the next notify()."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter
