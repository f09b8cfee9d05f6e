"""Beginning, continuing and ending a run: what `mnemos run` and `mnemos demo` call."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..errors import CliError, Conflict
from ..http import CortexClient, first_error
from ..output import duration, note
from . import record as records
from .answers import AnswersFile
from .lines import Survey, read_lines, survey
from .progress import RunProgress, open_progress
from .record import RunRecord, RunSettings, sidecar_of
from .runner import BatchRun, closing_answers

CANCEL_OLD_SECONDS = 10.0


class RunRequest(NamedTuple):
    """What the person asked for."""

    source: Path
    out: Path
    settings: RunSettings
    cortex_url: str
    restart: bool = False
    window: int = 2000
    retry_failed: bool = False


class RunSummary(NamedTuple):
    """How a run ended; `seconds` and `tokens` count this session only."""

    total: int
    failed: int
    answered_now: int
    tokens: int
    seconds: float

    def sentence(self, out: Path) -> str:
        """The line that closes a run."""
        rate = self.tokens / self.seconds if self.seconds > 0 else 0.0
        what = f"{self.total - self.failed} of {self.total} lines answered"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{what}{failed} in {duration(self.seconds)} ({rate:.0f} tok/s); they are in {out}"


async def run_file(
    request: RunRequest,
    progress_for: Callable[[int, int], RunProgress] = open_progress,
) -> RunSummary:
    """Run a file to its end, going on from where an earlier run of the same was stopped.

    Raises CliError: Unreachable when CORTEX is not up, Conflict when OUT belongs to another run.
    On cancel everything written so far is kept, and so is the record to continue from.
    """
    if request.out.exists() and request.out.samefile(request.source):
        raise Conflict("The answers cannot be written over the prompts.", hint="choose another -o")
    found = await asyncio.to_thread(survey, request.source)
    async with CortexClient(request.cortex_url) as cortex:
        with closing_answers(AnswersFile(request.out)) as answers:
            record = await _begin(request, found, answers, cortex)
            if record is None:
                note(f"Nothing to do: {request.out} holds every answer already.")
                return RunSummary(found.total, answers.failed, 0, 0, 0.0)
            return await _go_on(request, found, answers, record, cortex, progress_for)


async def _begin(
    request: RunRequest, found: Survey, answers: AnswersFile, cortex: CortexClient
) -> RunRecord | None:
    """The record to run with; None when OUT is complete."""
    sidecar = sidecar_of(request.out)
    if request.restart:
        await cortex.call("GET", "/health")  # nothing is deleted for a run that cannot begin
        await _forget(sidecar, answers, cortex)
    known = await asyncio.to_thread(records.load, sidecar)
    if known is None and answers.done:
        await asyncio.to_thread(_refuse_other_run, request, answers)
        if not (request.retry_failed and answers.failed):
            return None
        await cortex.call("GET", "/health")
        return await asyncio.to_thread(_ask_failed_again, request, found, answers, sidecar)
    await cortex.call("GET", "/health")
    if known is None:
        known = records.new_record(found, request.settings, request.cortex_url)
        await asyncio.to_thread(records.save, sidecar, known)
        return known
    records.check_same_run(known, found, request.settings, request.out)
    if known.cortex_url != request.cortex_url:
        known.cortex_url, known.cursor = request.cortex_url, ""
    note(f"Continuing: {len(answers.done)} of {found.total} lines are answered already.")
    if request.retry_failed and answers.failed:
        note("Lines that failed are asked again once every line has its answer.")
    return known


def _ask_failed_again(
    request: RunRequest, found: Survey, answers: AnswersFile, sidecar: Path
) -> RunRecord:
    """Begin a run of the failed lines alone: as new jobs, since the old ones have ended."""
    record = records.new_record(found, request.settings, request.cortex_url)
    records.save(sidecar, record)  # before anything is deleted: a crash leaves a run to continue
    note(f"Asking {answers.drop_failed()} failed lines again.")
    return record


def _refuse_other_run(request: RunRequest, answers: AnswersFile) -> None:
    wanted = {line.id for line in read_lines(request.source)}
    if wanted != answers.done:
        raise Conflict(
            f"{request.out} holds answers of another run.",
            code="other_run",
            hint="choose another -o, or delete its answers and start over with --restart",
        )


async def _forget(sidecar: Path, answers: AnswersFile, cortex: CortexClient) -> None:
    """Delete an earlier run's answers and cancel what of it is still waiting."""
    known: RunRecord | None = None
    with contextlib.suppress(Conflict):  # a damaged record names no jobs to cancel
        known = await asyncio.to_thread(records.load, sidecar)
    await asyncio.to_thread(answers.clear)
    await asyncio.to_thread(sidecar.unlink, missing_ok=True)
    if known is None:
        return
    try:
        async with asyncio.timeout(CANCEL_OLD_SECONDS):
            cancelled = await cortex.cancel_group(known.run_id)
    except (CliError, TimeoutError):
        return  # the old jobs are wanted by nobody; they may as well run
    if cancelled:
        note(f"Cancelled {cancelled} jobs of the earlier run.")


async def _go_on(
    request: RunRequest,
    found: Survey,
    answers: AnswersFile,
    record: RunRecord,
    cortex: CortexClient,
    progress_for: Callable[[int, int], RunProgress],
) -> RunSummary:
    sidecar = sidecar_of(request.out)
    before = len(answers.done)
    started = time.monotonic()
    progress = progress_for(found.total, before)
    work = BatchRun(
        cortex, request.source, record, sidecar, answers, progress, window=request.window
    )
    try:
        await work.run()
    except BaseExceptionGroup as errors:
        if not answers.done and not work.accepted:
            sidecar.unlink(missing_ok=True)
        raise first_error(errors) from errors
    finally:
        progress.close()
    sidecar.unlink(missing_ok=True)
    return RunSummary(
        total=found.total,
        failed=answers.failed,
        answered_now=len(answers.done) - before,
        tokens=work.tokens,
        seconds=time.monotonic() - started,
    )
