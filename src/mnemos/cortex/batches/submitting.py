"""Lines of a batch become jobs, a hundred in a commit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from mnemos.http import ApiError

from ..api.context import ApiContext
from ..api.submission import Preparation, parse_job
from ..errors import StorageUnavailableError
from ..notifier import group_topic
from ..records import NewJob
from .lines import Line, error_json, job_of, parse_line
from .objects import FileObjects
from .records import Batch, Fault, Progress
from .store import BatchStore

LINES_AT_ONCE = 100
"""In one commit: what others ask meanwhile waits for it."""
BYTES_AT_ONCE = 8 * 1024 * 1024
LINES_BETWEEN_PAUSES = 16
ROOM_LOOK_SECONDS = 1.0
"""How often one looks whether the batch's key may have more jobs waiting, if none ends."""
_WRONG = frozenset({400, 404, 409, 413, 422})


@dataclass(slots=True)
class _Step:
    """What goes into one commit."""

    jobs: list[NewJob] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lines: int = 0
    size_bytes: int = 0


class Submitter:
    """Submits lines, each as the one job that its key names."""

    def __init__(self, cortex: ApiContext, store: BatchStore, files: FileObjects) -> None:
        self._cortex = cortex
        self._store = store
        self._files = files

    async def submit(self, batch: Batch) -> AsyncGenerator[Progress, None]:
        """Submit the lines that are left, yielding how far the batch is after each commit.

        A line whose request is refused is kept as a fault. Where the batch's key has a limit that
        is reached, this waits, and yields what it had, so that its owner may stop it. Raises
        EngramError, CortexError; then lines may be submitted again. To be closed.
        """
        self._preparation = Preparation(
            self._cortex.catalog,
            self._cortex.store,
            self._cortex.inputs,
            key_id=batch.key_id,
            is_batch=True,
        )
        progress, step = batch.progress, _Step()
        room = 0
        with self._cortex.notifier.subscribe(group_topic(batch.batch_id)) as ear:
            async with aclosing(self._files.lines(batch.input_file_id)) as lines:
                async for number, raw in lines:
                    if number <= batch.progress.handled:
                        continue
                    while not step.lines and (room := await self._room(batch)) <= 0:
                        yield progress
                        await ear.wait(ROOM_LOOK_SECONDS)
                        ear.clear()
                    await self._add(step, batch, number, raw)
                    if step.lines >= min(room, LINES_AT_ONCE) or step.size_bytes >= BYTES_AT_ONCE:
                        progress = await self._store_step(batch, step, progress)
                        step = _Step()
                        yield progress
                    elif number % LINES_BETWEEN_PAUSES == 0:
                        await asyncio.sleep(0)  # others are served between
        if step.lines:
            yield await self._store_step(batch, step, progress)

    async def _add(self, step: _Step, batch: Batch, number: int, raw: bytes) -> None:
        line = parse_line(number, raw, batch.endpoint)
        try:
            step.jobs.append(await self._prepared(line, batch))
        except ApiError as error:
            step.faults.append(_fault(line, error))
        step.lines += 1
        step.size_bytes += len(raw)

    async def _room(self, batch: Batch) -> int:
        """How many jobs of the batch's key there is room for."""
        return await self._cortex.quotas.room(batch.key_id) if batch.key_id else LINES_AT_ONCE

    async def _store_step(self, batch: Batch, step: _Step, progress: Progress) -> Progress:
        if step.faults:
            await self._store.add_faults(batch.batch_id, step.faults)
        if step.jobs:
            stored = await self._cortex.store.submit(step.jobs)
            if batch.key_id:
                new = [job for job, one in zip(step.jobs, stored, strict=True) if one.created]
                self._cortex.quotas.charge(batch.key_id, new)
        return replace(
            progress,
            handled=progress.handled + step.lines,
            faults=progress.faults + len(step.faults),
        )

    async def _prepared(self, line: Line, batch: Batch) -> NewJob:
        try:
            body = job_of(line, batch.batch_id, batch.endpoint)
            return await self._preparation.prepare(parse_job(body))
        except ApiError as error:
            if error.status_code in _WRONG:
                raise
            raise StorageUnavailableError(error.message) from error  # it may pass: try again


def _fault(line: Line, error: ApiError) -> Fault:
    status = 400 if error.status_code in (409, 422) else error.status_code
    return Fault(line.number, line.custom_id, status, json.dumps(error_json(error)))
