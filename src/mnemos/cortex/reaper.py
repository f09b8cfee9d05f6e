"""The background duties: ending what is overdue, queueing what is due."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import asdict

import structlog

from .errors import StorageUnavailableError
from .notifier import DELAYED_TOPIC, Notifier
from .records import Reaped
from .store import AttemptStore

ROUNDING_SECONDS = 0.02
"""More than clocks and timers differ in a few seconds."""

_log = structlog.get_logger(__name__)


class LeaseReaper:
    """Takes jobs from workers that are gone, and ends those whose time is over.

    `run()` is a task of the owner's group and ends when cancelled; `run_once()` is one round.
    """

    def __init__(self, store: AttemptStore, *, interval_seconds: float) -> None:
        self._store = store
        self._interval_seconds = interval_seconds
        self._due = asyncio.Event()

    def expire_in(self, seconds: float) -> None:
        """Look again in `seconds`, if not before: leases were shortened to that."""
        asyncio.get_running_loop().call_later(seconds + ROUNDING_SECONDS, self._due.set)

    async def run(self) -> None:
        """Look again and again, until cancelled. A store that fails is asked again later."""
        while True:
            await self._pause()
            try:
                await self.run_once()
            except StorageUnavailableError as error:
                _log.warning("reaper.storage_unavailable", error=error.message)

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval_seconds):
                await self._due.wait()
        self._due.clear()

    async def run_once(self) -> Reaped:
        """End everything that is overdue now."""
        reaped = await self._store.reap()
        if any(asdict(reaped).values()):
            _log.info("reaper.reaped", **asdict(reaped))
        return reaped


class DelayedJobPromoter:
    """Queues jobs whose backoff is over, the moment it is.

    `run()` is a task of the owner's group and ends when cancelled; `run_once()` is one round.
    """

    def __init__(
        self, store: AttemptStore, notifier: Notifier, *, retry_seconds: float = 1.0
    ) -> None:
        self._store = store
        self._notifier = notifier
        self._retry_seconds = retry_seconds

    async def run(self) -> None:
        """Sleep until the next job is due or another is delayed, until cancelled."""
        with self._notifier.subscribe(DELAYED_TOPIC) as ear:
            while not self._notifier.closed:
                ear.clear()
                await ear.wait(await self.run_once())

    async def run_once(self) -> float | None:
        """Queue what is due; return the seconds until the next is, None if nothing is delayed."""
        try:
            return await self._store.promote_due()
        except StorageUnavailableError as error:
            _log.warning("promoter.storage_unavailable", error=error.message)
            return self._retry_seconds
