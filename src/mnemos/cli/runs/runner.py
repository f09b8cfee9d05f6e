"""The run itself: a `map` over the file's questions, whose answers are written as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mnemos.client import Answer, AsyncClient, AsyncMapRun, JobError, JobRequest, MnemosError

from ..http import CortexClient
from .answers import AnswersFile
from .faults import cli_error
from .lines import BadLine, Question, read_lines
from .plan import (
    answer_line,
    answer_of_bad_line,
    line_number_of,
    model_name,
    options_of,
    request_of,
    tokens_of,
)
from .progress import RunProgress
from .record import RunRecord, save
from .waiting import WhyWaiting

READ_LINES = 500
SYNC_SECONDS = 2.0
SHOWN_BAD_LINES = 20
GIVE_UP_SECONDS = 900.0
"""So long a run waits for a CORTEX that is gone."""


class BatchRun:
    """Asks every question of a file that `answers` does not hold yet.

    `run()` returns when every line has its answer. Cancelling it (Ctrl-C) leaves the answers so
    far on disk and the record beside them, so that a later run goes on from there.
    """

    def __init__(
        self,
        cortex: CortexClient,
        source: Path,
        record: RunRecord,
        sidecar: Path,
        answers: AnswersFile,
        progress: RunProgress,
        *,
        window: int,
    ) -> None:
        self._source = source
        self._record = record
        self._sidecar = sidecar
        self._answers = answers
        self._progress = progress
        self._window = window
        self._why_waiting = WhyWaiting(cortex, progress.note)
        self._bad_lines = 0
        self._cursor = record.cursor
        self._mapped: AsyncMapRun[JobRequest] | None = None
        self.tokens = 0
        """Tokens generated for the answers that this call of `run()` has written."""

    @property
    def accepted(self) -> int:
        """Jobs that CORTEX took in this call of `run()`, those it knew already included."""
        return self._mapped.submitted if self._mapped is not None else 0

    async def run(self) -> None:
        """Ask and write until nothing is left. Raises CliError."""
        try:
            async with asyncio.TaskGroup() as upkeep:
                ticker = upkeep.create_task(self._keep_up(), name="run-upkeep")
                await self._map()
                ticker.cancel()
        finally:
            self._sync()

    async def _map(self) -> None:
        settings = self._record.settings
        async with AsyncClient(self._record.cortex_url, on_notice=self._progress.note) as client:
            self._mapped = client.map(
                self._questions(),
                model=model_name(settings),
                run_id=self._record.run_id,
                window=self._window,
                after=self._cursor,
                patience_seconds=GIVE_UP_SECONDS,
                whole_results=False,  # a line that is too big names where its answer lies
                **options_of(settings),
            )
            try:
                async with self._mapped as mapped:
                    async for answers in mapped.batches():
                        await self._take(answers)
                        self._cursor = mapped.cursor
            except MnemosError as error:
                raise cli_error(error) from error

    async def _take(self, answers: Sequence[Answer[JobRequest]]) -> None:
        self._tell((line_number_of(one), _why(one.error)) for one in answers if one.error)
        await self._write([answer_line(answer) for answer in answers])

    async def _keep_up(self) -> None:
        last_sync = 0.0
        while True:
            await asyncio.sleep(1.0)
            self._progress.tick()
            if self._mapped is not None and (job_id := self._mapped.oldest_job_id):
                await self._why_waiting.look(job_id, len(self._answers.done))
            last_sync += 1.0
            if last_sync >= SYNC_SECONDS:
                last_sync = 0.0
                await asyncio.to_thread(self._sync)

    def _sync(self) -> None:
        """The cursor is taken first: it may only point to what is then made durable."""
        cursor = self._cursor
        self._answers.sync()
        if cursor != self._record.cursor:
            self._record.cursor = cursor
            save(self._sidecar, self._record)

    async def _questions(self) -> AsyncIterator[JobRequest]:
        """What is left to ask; a line that cannot be asked is answered here."""
        async for chunk in self._chunks():
            bad = [line for line in chunk if isinstance(line, BadLine)]
            if bad:
                self._tell((line.number, line.message) for line in bad)
                await self._write([answer_of_bad_line(line) for line in bad])
            for line in chunk:
                if isinstance(line, Question):
                    yield request_of(line)

    async def _chunks(self) -> AsyncIterator[list[Question | BadLine]]:
        """Read the file in a thread, a few hundred lines at a time, without those done."""
        lines = iter(read_lines(self._source))
        remaining = (line for line in lines if line.id not in self._answers.done)
        size = max(1, min(READ_LINES, self._window))
        while chunk := await asyncio.to_thread(lambda: list(islice(remaining, size))):
            yield chunk

    async def _write(self, answers: list[dict[str, Any]]) -> None:
        await asyncio.to_thread(self._answers.append, answers)
        tokens = sum(map(tokens_of, answers))
        self.tokens += tokens
        self._progress.advance(len(self._answers.done), self._answers.failed, tokens)

    def _tell(self, failures: Iterable[tuple[int, str]]) -> None:
        for number, message in failures:
            self._bad_lines += 1
            if self._bad_lines <= SHOWN_BAD_LINES:
                self._progress.note(f"line {number}: {message}")
            elif self._bad_lines == SHOWN_BAD_LINES + 1:
                self._progress.note("More lines failed; each is told in the answers file.")


def _why(error: MnemosError) -> str:
    """The worker's own sentence, of a job that failed."""
    failure = error.job.error if isinstance(error, JobError) else None
    return failure.message if failure else error.message


@contextlib.contextmanager
def closing_answers(answers: AnswersFile) -> Iterator[AnswersFile]:
    """Open for the length of a block."""
    try:
        yield answers.open()
    finally:
        answers.close()
