"""Suspecting workers whose streams break: a killed one's jobs go on soon, not a lease later.

A process that is killed takes its connections with it, which is seen at once. So is a proxy that
restarts, behind which the worker lives: it opens another stream and renews its leases, and nothing
is lost. Fencing keeps either case safe; suspicion only decides how long a job waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from .errors import StorageUnavailableError
from .ids import new_id

_log = structlog.get_logger(__name__)


class SuspicionStore(Protocol):
    """What suspecting asks of a store. Its methods may raise StorageUnavailableError."""

    async def watch(self, worker_id: str, instance_id: str, watch_id: str) -> bool:
        """Note which stream a worker's process opened last; return whether that is known."""

    async def suspect(self, broken: Collection[tuple[str, str]], seconds: float) -> int:
        """Shorten the leases of workers whose last stream broke; return how many."""


@dataclass(slots=True)
class Watch:
    """One open stream of actions."""

    worker_id: str
    instance_id: str
    watch_id: str
    noted: bool = False


class Suspector:
    """Shortens the leases of workers whose streams were broken by their end.

    `expire_in` is told in how many seconds leases may be over. `run()` is a task of the owner's
    group and ends when cancelled; `run_once()` deals with what broke. With 0 `seconds`
    nobody is ever suspected.
    """

    def __init__(
        self,
        store: SuspicionStore,
        *,
        seconds: float,
        expire_in: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._store = store
        self._seconds = seconds
        self._expire_in = expire_in
        self._broken: asyncio.Queue[Watch] = asyncio.Queue()
        self._closing = False

    def close(self) -> None:
        """From now on it is CORTEX that ends streams."""
        self._closing = True

    @contextmanager
    def watching(self, worker_id: str, instance_id: str) -> Iterator[Watch]:
        """Around a stream: if its other end breaks it, whoever noted it is suspected."""
        stream = Watch(worker_id, instance_id, new_id("wch"))
        try:
            yield stream
        except (asyncio.CancelledError, GeneratorExit):
            if stream.noted and not self._closing:
                self._broken.put_nowait(stream)
            raise

    async def note(self, stream: Watch) -> None:
        """Make the stream durably the last one of its worker, before the worker hears of it.

        From then on the end of an earlier one, noticed by whichever replica, means nothing.
        """
        if stream.instance_id and self._seconds:
            stream.noted = await self._store.watch(
                stream.worker_id, stream.instance_id, stream.watch_id
            )

    async def run(self) -> None:
        """Suspect until cancelled. Where the store fails, leases run out as they would have."""
        while True:
            await self.run_once()

    async def run_once(self) -> None:
        """Wait for a broken stream; suspect its worker, and those whose streams broke with it."""
        broken = [await self._broken.get()]
        while not self._broken.empty():
            broken.append(self._broken.get_nowait())
        pairs = {(stream.worker_id, stream.watch_id) for stream in broken}
        try:
            jobs = await self._store.suspect(pairs, self._seconds)
        except StorageUnavailableError as error:
            _log.warning("suspicion.storage_unavailable", error=error.message)
            return
        if jobs:
            workers = sorted({stream.worker_id for stream in broken})
            _log.info("workers.suspected", workers=workers, jobs=jobs)
            self._expire_in(self._seconds)
