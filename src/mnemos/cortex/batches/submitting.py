"""Lines of a batch become jobs, some hundreds in a commit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from mnemos.http import ApiError

from ..api.context import ApiContext
from ..api.submission import Preparation, parse_job
from ..errors import StorageUnavailableError
from ..records import NewJob
from .lines import Line, error_json, job_of, parse_line
from .objects import FileObjects
from .records import Batch, Fault
from .store import BatchStore

LINES_AT_ONCE = 500
BYTES_AT_ONCE = 8 * 1024 * 1024
LINES_BETWEEN_PAUSES = 16
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
        self._preparation = Preparation(cortex.catalog, cortex.store, cortex.inputs)

    async def submit(self, batch: Batch) -> AsyncGenerator[int, None]:
        """Submit the lines that are left, yielding the last one's number after each commit.

        A line whose request is refused is kept as a fault. Raises EngramError, CortexError; then
        lines may be submitted again. To be closed.
        """
        step = _Step()
        async with aclosing(self._files.lines(batch.input_file_id)) as lines:
            async for number, raw in lines:
                if number <= batch.progress.handled:
                    continue
                line = parse_line(number, raw, batch.endpoint)
                try:
                    step.jobs.append(await self._prepared(line, batch))
                except ApiError as error:
                    step.faults.append(_fault(line, error))
                step.lines += 1
                step.size_bytes += len(raw)
                if step.lines >= LINES_AT_ONCE or step.size_bytes >= BYTES_AT_ONCE:
                    await self._store_step(batch, step)
                    step = _Step()
                    yield number
                elif number % LINES_BETWEEN_PAUSES == 0:
                    await asyncio.sleep(0)  # others are served between
        if step.lines:
            await self._store_step(batch, step)
            yield number

    async def _store_step(self, batch: Batch, step: _Step) -> None:
        if step.faults:
            await self._store.add_faults(batch.batch_id, step.faults)
        if step.jobs:
            await self._cortex.store.submit(step.jobs)

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
