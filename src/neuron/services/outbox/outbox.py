"""Keeping on disk what CORTEX has not acknowledged, off the path of what it does at once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, TypeVar

import structlog

from ...models.job import StreamChunk
from ...models.lease import AttemptRef
from ...utils.metrics import WorkerMetrics
from ..service import Service
from .changes import (
    Change,
    Forget,
    ForgetChunks,
    KeepChunks,
    KeepReport,
    LeftBehind,
    NameWorker,
    Report,
)
from .file import OutboxFile, Written

logger = structlog.get_logger(__name__)

T = TypeVar("T")

LINGER_SECONDS = 0.025
"""How long a change waits at least, and twice that at most; what CORTEX acknowledges by then is
never written."""
RETRY_SECONDS = 2.0
"""Between two attempts to write to a disk that refuses."""


class Outbox(Service):
    """Remembers changes at once and writes them a moment later, many in one fsync, in a thread.

    Nobody waits for the disk: whoever gives something to keep holds it in memory until CORTEX has
    acknowledged it, and so outlives everything but the death of this process. A disk that cannot
    be written costs no job; `trouble` says what is wrong, and writing is tried again.
    """

    name: ClassVar[str] = "outbox"

    def __init__(
        self, root: Path, name: str, limit_bytes: int, metrics: WorkerMetrics | None = None
    ) -> None:
        super().__init__()
        self.trouble: str | None = None
        """Why nothing can be kept now, in one sentence; None while all is well."""
        self.full = False
        """Whether something found no room; then no new jobs should be taken."""
        self.limit_bytes = limit_bytes
        self.worker_id = ""
        """The id under which the process before this one was registered, if it left any."""
        self._metrics = metrics
        self._root = root
        self._file = OutboxFile(root, name, limit_bytes)
        self._set_asides = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._waiting: list[Change] = []
        self._young: list[Change] = []
        """What was asked for a moment ago: CORTEX may take it before it need be written."""
        self._on_disk: dict[AttemptRef, KeepReport | None] = {}
        """Of which attempts there may be something on disk."""
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self._writing = asyncio.Lock()

    # ------------------------------------------------------------ its life

    async def open(self) -> LeftBehind:
        """Take a folder and return what an earlier process left there; nothing if it cannot."""
        try:
            found = await self._in_thread(self._file.load)
        except (OSError, sqlite3.Error) as error:
            self._note_trouble(error)
            return LeftBehind()
        self._set_asides = self._file.set_asides
        self.worker_id = found.worker_id
        self._on_disk = dict.fromkeys(found.refs)
        self._show(self._file.used, len(found.reports))
        if self._on_disk:
            logger.info(
                "outbox_has_leftovers", reports=len(found.reports), chunks=len(found.chunks)
            )
        return found

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._work.wait()
            await asyncio.sleep(LINGER_SECONDS)
            if not await self._write_old():
                await asyncio.sleep(RETRY_SECONDS)

    async def close(self) -> None:
        """Write what waits, if the disk lets, and free the folder. May be called twice."""
        if self._closed:
            return
        self._closed = True
        await self.write()
        await self._in_thread(self._file.close)
        self._thread.shutdown(wait=False)

    # ------------------------------------------------------------ what it is asked

    def keep_report(
        self,
        ref: AttemptRef,
        report: Report,
        unacknowledged: Callable[[], Sequence[StreamChunk]] = tuple,
    ) -> None:
        """Keep how an attempt ended, and the chunks of it that are not acknowledged then."""
        self._ask(KeepReport(ref, report, unacknowledged))

    def keep_chunks(self, ref: AttemptRef, chunks: Sequence[StreamChunk]) -> None:
        """Keep chunks of an attempt that goes on, each once and in order."""
        self._ask(KeepChunks(ref, tuple(chunks)))

    def forget_chunks(self, ref: AttemptRef, below: int) -> None:
        """Drop chunks that were acknowledged."""
        self._ask(ForgetChunks(ref, below))

    def forget(self, ref: AttemptRef) -> None:
        """Drop all of an attempt: CORTEX has judged it. No more of it may come."""
        self._ask(Forget(ref))

    def name_worker(self, worker_id: str) -> None:
        """Remember under which id to register after a restart; empty for none."""
        if worker_id != self.worker_id:
            self.worker_id = worker_id
            self._ask(NameWorker(worker_id))

    async def wait_for_room(self) -> None:
        """Return when there is room to keep more."""
        await self._room.wait()

    # ------------------------------------------------------------ writing

    async def write(self) -> bool:
        """Make durable what was asked for until now; return whether that went well."""
        async with self._writing:
            self._age()
            return await self._write_batch()

    async def _write_old(self) -> bool:
        """Do so with what has lingered; the rest has its time yet."""
        async with self._writing:
            went_well = await self._write_batch()
            self._age()
            return went_well

    def _age(self) -> None:
        self._waiting += self._young
        self._young = []
        if self._waiting:
            self._work.set()

    async def _write_batch(self) -> bool:
        self._work.clear()
        batch = self._waiting = self._worth_writing()
        if not batch:
            return True
        batch = list(batch)
        self._note_kept(batch)  # before: a caller that is cancelled does not stop the thread
        resolved = [each.resolved() if isinstance(each, KeepReport) else each for each in batch]
        try:
            written = await self._in_thread(lambda: self._file.apply(resolved))
        except (OSError, sqlite3.Error) as error:
            self._note_trouble(error)
            self._work.set()
            return False
        self._note_written(batch, written)
        return True

    def _worth_writing(self) -> list[Change]:
        """What waits, without what has become pointless: its attempt was judged meanwhile."""
        asked = (*self._waiting, *self._young)
        judged = {each.ref for each in asked if isinstance(each, Forget)}
        kept = {each.ref for each in self._waiting if isinstance(each, KeepChunks)}
        newest = {each.ref: each for each in self._waiting if isinstance(each, KeepReport)}

        def counts(change: Change) -> bool:
            match change:
                case Forget(ref):
                    return ref in self._on_disk
                case ForgetChunks(ref, _):
                    return ref not in judged and (ref in self._on_disk or ref in kept)
                case KeepReport(ref=ref):
                    return ref not in judged and change is newest[ref]
                case KeepChunks(ref, _):
                    return ref not in judged
            return True

        worth = [each for each in self._waiting if counts(each)]
        # What makes room comes first, for what was refused before.
        return sorted(worth, key=lambda each: not isinstance(each, Forget | ForgetChunks))

    def _note_written(self, batch: Sequence[Change], written: Written) -> None:
        if self.trouble is not None:
            logger.info("outbox_writes_again")
            self.trouble = None
        refused = [batch[index] for index in written.refused]
        self._waiting = refused + self._waiting[len(batch) :]
        for change in batch:
            if isinstance(change, Forget):
                self._on_disk.pop(change.ref, None)
        self._set_full(bool(refused) or written.used >= self.limit_bytes)
        self._show(written.used, written.reports)
        if self._file.set_asides != self._set_asides:
            self._set_asides = self._file.set_asides
            self._write_all_anew(batch)

    def _note_kept(self, batch: Sequence[Change]) -> None:
        for change in batch:
            match change:
                case KeepReport(ref=ref):
                    self._on_disk[ref] = change
                case KeepChunks(ref, _):
                    self._on_disk.setdefault(ref, None)

    def _write_all_anew(self, just_written: Sequence[Change]) -> None:
        """The file was set aside: what it held beside the last batch must be written again."""
        there = {id(each) for each in just_written}
        lost = [each for each in self._on_disk.values() if each and id(each) not in there]
        self._waiting = [NameWorker(self.worker_id), *lost, *self._waiting]
        self._work.set()

    def _set_full(self, full: bool) -> None:
        if full == self.full:
            return
        self.full = full
        if full:
            self._room.clear()
            logger.warning("outbox_full", limit_bytes=self.limit_bytes)
        else:
            self._room.set()
            logger.info("outbox_has_room_again")

    def _show(self, used: int, reports: int) -> None:
        if self._metrics is not None:
            self._metrics.outbox_bytes.set(used)
            self._metrics.outbox_reports.set(reports)
            self._metrics.outbox_full.set(self.full)

    def _note_trouble(self, error: Exception) -> None:
        trouble = (
            f"the outbox in {self._root} cannot be written ({error}); results that CORTEX has not"
            " acknowledged are kept in memory only"
        )
        if trouble != self.trouble:
            logger.error("outbox_trouble", error=trouble)
            self.trouble = trouble

    def _ask(self, change: Change) -> None:
        self._young.append(change)
        self._work.set()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
