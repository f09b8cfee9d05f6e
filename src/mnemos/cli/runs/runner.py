"""The run itself: one task submits, one collects, and a window keeps the two in step."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..errors import Conflict, NotFound, UsageFault
from ..http import CALL_SECONDS, CortexClient
from .answers import AnswersFile
from .lines import BadLine, Question, read_lines
from .patience import Patience
from .plan import (
    answer_of_bad_line,
    answer_of_job,
    job_body,
    line_id_of,
    line_number_in,
    refused,
    tokens_of,
)
from .progress import RunProgress
from .record import RunRecord, save
from .waiting import WhyWaiting

BATCH_JOBS = 500
BATCH_BYTES = 8 * 1024 * 1024
PAGE_JOBS = 200
LONG_POLL_SECONDS = 20.0
SYNC_SECONDS = 2.0
LOST_AFTER_EMPTY_POLLS = 4
RETRY_REFUSED_SECONDS = 1.0
SHOWN_BAD_LINES = 20
SUBMIT_SECONDS = 120.0

_PASSING_CODES = frozenset({"unavailable", "storage_unavailable", "internal"})
_HOPELESS_CODES = frozenset({"model_not_found", "not_found"})


class _Asked(NamedTuple):
    """A question in CORTEX's hands, kept in case CORTEX loses it."""

    body: bytes
    job_id: str


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
        self._cortex = cortex
        self._source = source
        self._record = record
        self._sidecar = sidecar
        self._answers = answers
        self._progress = progress
        self._window = window
        self._patience = Patience(progress.note)
        self._why_waiting = WhyWaiting(cortex, progress.note)
        self._outstanding: dict[str, _Asked] = {}
        self._changed = asyncio.Condition()
        self._all_submitted = False
        self._bad_lines = 0
        self._cursor = record.cursor
        self._empty_polls = 0
        self._reread = False
        self.accepted = 0
        """Jobs that CORTEX took in this call of `run()`, those it knew already included."""
        self.tokens = 0
        """Tokens generated for the answers that this call of `run()` has written."""

    async def run(self) -> None:
        """Submit and collect until nothing is left. Raises CliError."""
        try:
            async with asyncio.TaskGroup() as upkeep:
                ticker = upkeep.create_task(self._keep_up(), name="run-upkeep")
                async with asyncio.TaskGroup() as work:
                    work.create_task(self._submit(), name="run-submit")
                    work.create_task(self._collect(), name="run-collect")
                ticker.cancel()
        finally:
            self._sync()

    async def _keep_up(self) -> None:
        last_sync = 0.0
        while True:
            await asyncio.sleep(1.0)
            self._progress.tick()
            if asked := next(iter(self._outstanding.values()), None):
                await self._why_waiting.look(asked.job_id, len(self._answers.done))
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

    async def _submit(self) -> None:
        async for chunk in self._chunks():
            bad = [line for line in chunk if isinstance(line, BadLine)]
            questions = [line for line in chunk if isinstance(line, Question)]
            if bad:
                self._tell((line.number, line.message) for line in bad)
                await self._write([answer_of_bad_line(line) for line in bad])
            for bodies in self._batches(questions):
                await self._wait_for_room(len(bodies))
                await self._submit_bodies(bodies)
        async with self._changed:
            self._all_submitted = True
            self._changed.notify_all()

    async def _chunks(self) -> AsyncIterator[list[Question | BadLine]]:
        """Read the file in a thread, a few hundred lines at a time, without those done."""
        size = max(1, min(BATCH_JOBS, self._window // 4))
        lines = iter(read_lines(self._source))
        remaining = (line for line in lines if line.id not in self._answers.done)
        while chunk := await asyncio.to_thread(lambda: list(islice(remaining, size))):
            yield chunk

    def _batches(self, questions: list[Question]) -> Iterator[dict[str, bytes]]:
        batch: dict[str, bytes] = {}
        held = 0
        for question in questions:
            job = job_body(question, self._record.settings, self._record.run_id)
            body = msgspec.json.encode(job)
            if batch and held + len(body) > BATCH_BYTES:
                yield batch
                batch, held = {}, 0
            batch[question.id] = body
            held += len(body)
        if batch:
            yield batch

    async def _wait_for_room(self, wanted: int) -> None:
        async with self._changed:
            await self._changed.wait_for(
                lambda: len(self._outstanding) + wanted <= max(self._window, wanted)
            )

    async def _submit_bodies(self, bodies: dict[str, bytes]) -> None:
        """Submit until each is either accepted or refused for good."""
        while bodies:
            content = b'{"jobs":[' + b",".join(bodies.values()) + b"]}"
            try:
                results = await self._patience.call(
                    _bound(self._cortex.submit_batch, content, max(CALL_SECONDS, SUBMIT_SECONDS))
                )
            except UsageFault as error:
                await self._submit_halves(bodies, error)
                return
            taken, later, errors = self._sort_results(bodies, results)
            async with self._changed:
                self._outstanding.update(taken)
                self._changed.notify_all()
            await self._refuse(bodies, errors)
            bodies = later
            if bodies:
                await asyncio.sleep(RETRY_REFUSED_SECONDS)

    async def _submit_halves(self, bodies: dict[str, bytes], error: UsageFault) -> None:
        """A line that spoils the whole request is found, so that the others are still asked."""
        if len(bodies) == 1:
            told = error.as_json()["error"]
            await self._refuse(bodies, dict.fromkeys(bodies, told))
            return
        lines = list(bodies.items())
        middle = len(lines) // 2
        await self._submit_bodies(dict(lines[:middle]))
        await self._submit_bodies(dict(lines[middle:]))

    async def _refuse(self, bodies: dict[str, bytes], errors: dict[str, dict[str, Any]]) -> None:
        self._tell((line_number_in(bodies[key]), error["message"]) for key, error in errors.items())
        await self._write([refused(line_id, error) for line_id, error in errors.items()])

    def _sort_results(
        self, bodies: dict[str, bytes], results: list[dict[str, Any]]
    ) -> tuple[dict[str, _Asked], dict[str, bytes], dict[str, dict[str, Any]]]:
        taken: dict[str, _Asked] = {}
        later: dict[str, bytes] = {}
        errors: dict[str, dict[str, Any]] = {}
        for (line_id, body), result in zip(bodies.items(), results, strict=True):
            error = result.get("error")
            if error is None:
                taken[line_id] = _Asked(body, result["job_id"])
            elif error.get("code") in _PASSING_CODES:
                later[line_id] = body
            else:
                errors[line_id] = error
        hopeless = [error for error in errors.values() if error.get("code") in _HOPELESS_CODES]
        if hopeless and not taken and not self.accepted:
            raise NotFound(
                hopeless[0]["message"],
                code=hopeless[0]["code"],
                hint="see what there is with: mnemos models list",
            )
        self.accepted += len(taken)
        return taken, later, errors

    async def _collect(self) -> None:
        while await self._something_outstanding():
            try:
                page = await self._patience.call(
                    _bound(
                        self._cortex.group_results,
                        self._record.run_id,
                        self._cursor,
                        PAGE_JOBS,
                        LONG_POLL_SECONDS,
                    )
                )
            except (NotFound, UsageFault, Conflict):
                if not self._cursor:
                    raise
                self._cursor = ""
                continue
            await self._take_page(page)

    async def _something_outstanding(self) -> bool:
        """Wait until there is something to collect; False when there never will be."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._outstanding or self._all_submitted)
            return bool(self._outstanding)

    async def _take_page(self, page: dict[str, Any]) -> None:
        jobs = page["jobs"]
        answered = [
            (line_id, job)
            for job in jobs
            if (line_id := line_id_of(job)) is not None and line_id not in self._answers.done
        ]
        self._tell(
            (job["metadata"].get("line"), job["error"]["message"])
            for _, job in answered
            if job.get("error")
        )
        await self._write([answer_of_job(line_id, job) for line_id, job in answered])
        async with self._changed:
            for job in jobs:
                self._outstanding.pop(line_id_of(job) or "", None)
            self._changed.notify_all()
        self._cursor = page.get("next_cursor") or self._cursor
        await self._look_for_lost(page)

    async def _look_for_lost(self, page: dict[str, Any]) -> None:
        """A CORTEX that came back without its data no longer has our jobs: submit them again.

        First the results are read again from the start; idempotency keys make both harmless.
        """
        counts = page["counts"]
        waiting = counts["pending"] + counts["running"]
        if page["jobs"] or waiting or not self._outstanding:
            self._empty_polls = 0
            return
        self._empty_polls += 1
        await asyncio.sleep(0.1 * self._empty_polls)
        if self._empty_polls < LOST_AFTER_EMPTY_POLLS:
            return
        self._empty_polls = 0
        if not self._reread:
            self._reread, self._cursor = True, ""
            return
        self._reread = False
        some = islice(self._outstanding.items(), BATCH_JOBS)
        lost = {line_id: asked.body for line_id, asked in some}
        self._progress.note(f"CORTEX no longer knows {len(lost)} jobs; submitting them again.")
        await self._submit_bodies(lost)

    async def _write(self, answers: list[dict[str, Any]]) -> None:
        if not answers:
            return
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


def _bound(call: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A call that can be made again: coroutines cannot be awaited twice."""
    return lambda: call(*arguments)


@contextlib.contextmanager
def closing_answers(answers: AnswersFile) -> Iterator[AnswersFile]:
    """Open for the length of a block."""
    try:
        yield answers.open()
    finally:
        answers.close()
