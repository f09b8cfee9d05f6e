"""A batch's two files: every line of its input is in one of them, and in one only."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from mnemos.http import ApiError

from ..api.context import ApiContext
from ..api.views import encode
from ..errors import StorageUnavailableError
from ..openai.errors import failure_of
from ..records import JobRecord
from ..state_machine import JobState
from . import output
from .objects import FileObjects
from .records import Batch, BatchState, Progress, StoredFile
from .store import FilesAndBatches

PAGE = 200
_STOPPED = frozenset({"batch_cancelled", "batch_expired"})
PIECE_BYTES = 1024 * 1024
OUTPUT_PURPOSE = "batch_output"

_CODES = {
    BatchState.CANCELLED: "batch_cancelled",
    BatchState.EXPIRED: "batch_expired",
    BatchState.COMPLETED: "result_missing",
}


class IncompleteError(Exception):
    """The files of a batch have not as many lines as its input; they are written again."""

    def __init__(self, batch_id: str, completed: int, failed: int) -> None:
        super().__init__(f"{batch_id} has {completed} answers and {failed} failures.")


class Finalizer:
    """Writes the files of a batch whose jobs have all ended."""

    def __init__(
        self,
        cortex: ApiContext,
        store: FilesAndBatches,
        files: FileObjects,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cortex = cortex
        self._store = store
        self._files = files
        self._now = now

    async def write(self, batch: Batch) -> Progress:
        """Write both files, whole or not at all, and return the batch with its final counts.

        Raises EngramError, CortexError; then it may be done again, to the same end.
        """
        told = _Told()
        answers = _Counted(self._answers(batch, told))
        has_output = await self._store_lines(batch.output_file_id, batch, answers)
        failures = _Counted(self._failures(batch, told))
        has_errors = await self._store_lines(batch.error_file_id, batch, failures)
        if answers.count + failures.count != batch.progress.total:
            raise IncompleteError(batch.batch_id, answers.count, failures.count)
        return replace(
            batch.progress,
            completed=answers.count,
            failed=failures.count,
            has_output=has_output,
            has_errors=has_errors,
        )

    def answers_so_far(self, batch: Batch) -> AsyncGenerator[bytes, None]:
        """The output file of a batch that still runs, as far as it goes; to be closed."""
        return _pieces(self._answers(batch, _Told()))

    async def _store_lines(self, file_id: str, batch: Batch, lines: _Counted) -> bool:
        """Store a file unless it would be empty."""
        size = 0
        pieces = _pieces(lines)
        async with aclosing(pieces):
            try:
                first = await anext(pieces)
            except StopAsyncIteration:
                return False

            async def all_pieces() -> AsyncIterator[bytes]:
                nonlocal size
                size = len(first)
                yield first
                async for piece in pieces:
                    size += len(piece)
                    yield piece

            await self._files.write(file_id, all_pieces())
        kind = "output" if file_id == batch.output_file_id else "errors"
        now = self._now()
        file = StoredFile(
            file_id=file_id,
            purpose=OUTPUT_PURPOSE,
            filename=f"{batch.batch_id}_{kind}.jsonl",
            size_bytes=size,
            created_at=now,
            expires_at=now + batch.output_seconds if batch.output_seconds else None,
            key_id=batch.key_id,
        )
        await self._store.add_file(file)
        return True

    async def _answers(self, batch: Batch, told: _Told) -> AsyncGenerator[dict[str, Any], None]:
        async for job in self._ended(batch, completed=True):
            number = output.line_number(job)
            if number in told.lines:
                continue
            told.lines.add(number)
            try:
                line = await output.answered(self._cortex, job, batch.endpoint)
            except ApiError as error:
                _raise_if_it_may_pass(error)
                told.unread.append(output.refused(job, error))  # it is told among the failures
                continue
            yield line

    async def _failures(self, batch: Batch, told: _Told) -> AsyncGenerator[dict[str, Any], None]:
        for line in told.unread:
            yield line
        code = _CODES[batch.progress.ends_as]
        async for job in self._ended(batch, completed=False):
            number = output.line_number(job)
            stopped = job.status is JobState.CANCELLED and code in _STOPPED
            if number in told.lines or stopped:
                continue  # what was stopped is told below, in the batch's own words
            told.lines.add(number)
            yield output.refused(job, failure_of(job))
        async for fault in self._faults(batch):
            if fault.line not in told.lines:
                told.lines.add(fault.line)
                yield output.faulty(batch.batch_id, fault)
        if len(told.lines) == batch.progress.total:
            return
        async with aclosing(self._files.lines(batch.input_file_id)) as lines:
            async for number, raw in lines:
                if number not in told.lines:
                    custom_id = json.loads(raw)["custom_id"]
                    yield output.left_out(batch.batch_id, number, custom_id, code)

    async def _ended(self, batch: Batch, *, completed: bool) -> AsyncIterator[JobRecord]:
        position = 0
        while True:
            page = await self._store.ended_jobs(batch.batch_id, position, PAGE, completed=completed)
            for job in page:
                yield job
            if not page:
                return
            position = page[-1].finish_seq or 0

    async def _faults(self, batch: Batch) -> AsyncIterator[Any]:
        position = 0
        while page := await self._store.faults(batch.batch_id, position, PAGE):
            for fault in page:
                yield fault
            position = page[-1].line


def _raise_if_it_may_pass(error: ApiError) -> None:
    """An answer that is there and cannot be read just now is waited for."""
    if error.status_code == 503:
        raise StorageUnavailableError(error.message) from error


@dataclass(slots=True)
class _Told:
    """Lines that are in one of the files, or in what waits for the second."""

    lines: set[int] = field(default_factory=set)
    unread: list[dict[str, Any]] = field(default_factory=list)


class _Counted:
    """Lines, and how many there were."""

    def __init__(self, lines: AsyncGenerator[dict[str, Any], None]) -> None:
        self._lines = lines
        self.count = 0

    async def __aiter__(self) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(self._lines):
            async for line in self._lines:
                self.count += 1
                yield line


async def _pieces(lines: Any) -> AsyncGenerator[bytes, None]:
    """Lines of JSON in pieces that are worth sending."""
    waiting: list[bytes] = []
    size = 0
    async for line in lines:
        text = encode(line) + b"\n"
        waiting.append(text)
        size += len(text)
        if size >= PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
