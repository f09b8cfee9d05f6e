"""Brings batches to their ends; another CORTEX goes on where one was killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import replace

import structlog

from mnemos.engram.errors import EngramError

from ..api.context import ApiContext
from ..errors import CortexError
from ..ids import new_id
from ..notifier import BATCHES_TOPIC, group_topic
from .finalizing import Finalizer
from .objects import FileObjects
from .records import Batch, BatchState, Progress
from .store import FilesAndBatches
from .submitting import Submitter
from .validating import validate

OWNED_SECONDS = 15.0
"""So long after its driver died a batch is another's; it is kept every third of that."""
LOOK_SECONDS = 5.0
"""How often one looks for a batch whose driver died."""
AT_ONCE = 32
SHORTEST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0

_log = structlog.get_logger(__name__)


class NotOwnedError(Exception):
    """Another driver has the batch."""


class BatchDriver:
    """Drives batches that nobody drives, some at once.

    Everything it does may be done again: jobs have keys, files are written whole, and how far a
    batch is changes only for its owner. Where it is the `sole` driver there can be, whoever had a
    batch is gone, and nobody waits for the end of that one's time. `run()` is a task of the
    owner's group; when it is cancelled its batches are free for others.
    """

    def __init__(
        self,
        cortex: ApiContext,
        store: FilesAndBatches,
        files: FileObjects,
        now: Callable[[], float] = time.time,
        *,
        sole: bool = False,
    ) -> None:
        self._cortex = cortex
        self._store = store
        self._files = files
        self._now = now
        self._sole = sole
        self._owner = new_id("driver")

    async def run(self) -> None:
        """Look for batches and drive them, until cancelled."""
        places = asyncio.Semaphore(AT_ONCE)
        try:
            await self._take_over()
            async with asyncio.TaskGroup() as group:
                with self._cortex.notifier.subscribe(BATCHES_TOPIC) as ear:
                    while True:
                        ear.clear()
                        await places.acquire()
                        batch = await self._find()
                        if batch is None:
                            places.release()
                            await ear.wait(LOOK_SECONDS)
                            continue
                        task = group.create_task(self._drive(batch))
                        task.add_done_callback(lambda _: places.release())
        finally:
            with suppress(CortexError):  # then others wait until its time is over
                await self._store.leave_batches(self._owner)

    async def _take_over(self) -> None:
        if self._sole:
            with suppress(CortexError):  # then their time has to end
                await self._store.leave_batches(None)

    async def _find(self) -> Batch | None:
        try:
            return await self._store.own_batch(self._owner, OWNED_SECONDS)
        except CortexError as error:
            _log.warning("batches.storage_unavailable", error=error.message)
            return None

    async def _drive(self, batch: Batch) -> None:
        """Bring a batch on until it has ended or is another's; what fails is tried again."""
        log = _log.bind(batch_id=batch.batch_id)
        log.info("batch.driven", state=batch.state.value)
        try:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(self._keep(batch.batch_id))
                await self._until_ended(batch, log)
                keeper.cancel()
        except* NotOwnedError:
            log.warning("batch.has_another_driver")

    async def _keep(self, batch_id: str) -> None:
        while True:
            await asyncio.sleep(OWNED_SECONDS / 3)
            try:
                async with asyncio.timeout(OWNED_SECONDS / 2):
                    kept = await self._store.keep_batch(batch_id, self._owner, OWNED_SECONDS)
            except (CortexError, TimeoutError):
                continue  # whoever owns it next may do everything again
            if not kept:
                raise NotOwnedError

    async def _until_ended(self, batch: Batch, log: structlog.stdlib.BoundLogger) -> None:
        pause = SHORTEST_PAUSE_SECONDS
        while True:
            try:
                while await self._step(await self._again(batch)):
                    pause = SHORTEST_PAUSE_SECONDS
                return
            except (CortexError, EngramError) as error:
                log.warning("batch.waits", error=error.message)
            except NotOwnedError:
                raise
            except Exception:
                log.exception("batch.cannot_be_driven")
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    async def _step(self, batch: Batch) -> bool:
        """Do what comes next; return False at the end."""
        match batch.state:
            case BatchState.VALIDATING:
                await self._validate(batch)
            case BatchState.IN_PROGRESS:
                await self._run_jobs(batch)
            case BatchState.FINALIZING:
                await self._finalize(batch)
            case _:
                return False
        return True

    async def _validate(self, batch: Batch) -> None:
        checked = await validate(self._files, batch)
        if checked.errors:
            progress = Progress(errors=checked.errors, times={"failed": self._now()})
            await self._save(batch, BatchState.FAILED, progress)
            return
        progress = Progress(total=checked.total, times={"in_progress": self._now()})
        await self._save(batch, BatchState.IN_PROGRESS, progress)

    async def _run_jobs(self, batch: Batch) -> None:
        submitter = Submitter(self._cortex, self._store, self._files)
        progress = batch.progress
        async with aclosing(submitter.submit(batch)) as steps:
            async for handled in steps:
                if handled != progress:
                    progress = handled
                    await self._save(batch, BatchState.IN_PROGRESS, progress)
                batch = await self._again(batch)
                if self._reason_to_stop(batch) is not None:
                    break
        ends_as = await self._wait(batch)
        times = {**progress.times, "finalizing": self._now()}
        await self._save(
            batch, BatchState.FINALIZING, replace(progress, ends_as=ends_as, times=times)
        )

    async def _wait(self, batch: Batch) -> BatchState:
        """Return once every job has ended, having been told to where the batch shall stop."""
        stopped: BatchState | None = None
        with self._cortex.notifier.subscribe(group_topic(batch.batch_id)) as ear:
            while True:
                ear.clear()
                batch = await self._again(batch)
                if stopped is None and (stopped := self._reason_to_stop(batch)) is not None:
                    await self._cortex.store.cancel_group(batch.batch_id)
                counts = await self._cortex.store.group_counts(batch.batch_id)
                if counts.finished == counts.total:
                    return stopped or BatchState.COMPLETED
                left = batch.expires_at - self._now() if stopped is None else LOOK_SECONDS
                await ear.wait(max(0.1, min(LOOK_SECONDS, left)))

    def _reason_to_stop(self, batch: Batch) -> BatchState | None:
        if batch.cancelling_at is not None:
            return BatchState.CANCELLED
        return BatchState.EXPIRED if self._now() >= batch.expires_at else None

    async def _finalize(self, batch: Batch) -> None:
        progress = await Finalizer(self._cortex, self._store, self._files, self._now).write(batch)
        times = {**progress.times, progress.ends_as.value: self._now()}
        await self._save(batch, progress.ends_as, replace(progress, times=times))
        _log.info(
            "batch.ended",
            batch_id=batch.batch_id,
            state=progress.ends_as.value,
            completed=progress.completed,
            failed=progress.failed,
        )

    async def _again(self, batch: Batch) -> Batch:
        known = await self._store.get_batch(batch.batch_id)
        assert known is not None
        return known

    async def _save(self, batch: Batch, state: BatchState, progress: Progress) -> None:
        if not await self._store.save_batch(batch.batch_id, self._owner, state, progress):
            raise NotOwnedError
