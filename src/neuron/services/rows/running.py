"""Running a job's rows, many at once, each to a result or an error of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from ...errors import (
    EngineCrashedError,
    JobCancelledError,
    JobTimeoutError,
    NeuronError,
    RuntimeUnavailableError,
    StorageUnavailableError,
)
from ...models.job import JobOutput, JobSpec, RowResult
from .answering import Generate, RowAnswerer
from .finished import FinishedRows, check_row
from .reading import RowReader

OnRow = Callable[[RowResult], Awaitable[None]]

_ENDS_THE_ATTEMPT = (
    EngineCrashedError,
    JobCancelledError,
    JobTimeoutError,
    RuntimeUnavailableError,
    StorageUnavailableError,
)
"""Errors that are no row's: they would meet every row."""


class RowsRun:
    """One attempt at a batch or an evaluation; to be run once.

    Each row is a request of its own through `generate`; up to `max_running` run at once, begun in
    order. Rows that are `done` are not run again. `on_row` is awaited with each row the moment
    it has ended, with a result or an error, so that the next attempt need not run it.
    """

    def __init__(
        self,
        job: JobSpec,
        done: Sequence[RowResult],
        generate: Generate,
        on_row: OnRow,
        max_running: int,
    ) -> None:
        self.total = len(job.input.inputs or ())
        self._job = job
        self._generate = generate
        self._on_row = on_row
        self._max_running = max_running
        self._finished = FinishedRows(job, done)
        self._again: list[int] = []

    @property
    def done_count(self) -> int:
        """How many rows have ended, in this attempt or before."""
        return len(self._finished)

    def partial(self) -> JobOutput:
        """What there is so far; rows that have not ended are null."""
        return self._finished.output()

    async def run(self) -> JobOutput:
        """Run what is not done and return all rows, whether they failed or not.

        A row whose error may be retried (memory that ran out; a step that failed, for which any
        row beside it may be to blame) is tried once more when the others have ended, alone.
        Cancelling, and an error that is no row's, closes all generations; rows that ended stay.

        Raises:
            InvalidInputError: there are no rows, or their answers outgrow what a job may bring.
            NeuronError: what ended the attempt, as it was raised.
        """
        answerer = RowAnswerer(RowReader(self._job), self._generate)
        self._finished.check_size()
        waiting = (index for index in range(self.total) if index not in self._finished)
        await self._run_at_once(answerer, waiting)
        await self._work(answerer, iter(sorted(self._again)), is_last_try=True)
        return self.partial()

    async def _run_at_once(self, answerer: RowAnswerer, waiting: Iterator[int]) -> None:
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._max_running, self.total)):
                    group.create_task(self._work(answerer, waiting, is_last_try=False))
        except ExceptionGroup as failures:
            failure = failures.exceptions[0]
        if failure is not None:
            raise failure

    async def _work(
        self, answerer: RowAnswerer, waiting: Iterator[int], *, is_last_try: bool
    ) -> None:
        for index in waiting:
            try:
                result = await answerer.answer(index)
                check_row(result)
            except _ENDS_THE_ATTEMPT:
                raise
            except NeuronError as error:
                if error.retryable and not is_last_try:
                    self._again.append(index)
                    continue
                result = answerer.failed(index, error)
            await self._keep(RowResult(index=index, result=result))
            # Rows that nobody can be asked about end at once: others must come to their turn.
            await asyncio.sleep(0)

    async def _keep(self, row: RowResult) -> None:
        self._finished.add(row)
        await self._on_row(row)
