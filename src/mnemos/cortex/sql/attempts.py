"""What workers say about attempts: they go on, got further, ended, are handed back.

Each function is given what several calls said, in their order, and carries it out at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from .. import lease_core
from ..errors import WorkerUnknownError
from ..lease_core import Append, Renew, Say, Step
from ..records import (
    AttemptRef,
    Chunk,
    ChunkAck,
    Fence,
    RefVerdict,
    Release,
    Report,
    StatusUpdate,
)
from ..state_machine import JobState, Outcome
from .carry_out import Ledger, Random
from .jobs_loaded import Jobs, LoadedJob, load_jobs, load_pasts, load_streams
from .lanes import raise_needs
from .log_lines import token_text
from .many import INT, TEXT, Among, Many, Values
from .progress import room_taken
from .results import Results
from .rows import row_event
from .transaction import Transaction

Renewals = tuple[str, Sequence[AttemptRef]]
Updates = tuple[str, Sequence[StatusUpdate]]
Chunks = tuple[str, Sequence[Chunk]]
Reports = tuple[str, Sequence[Report]]
Releases = tuple[str, Sequence[Release]]

_SEEN = Among(
    """
UPDATE workers SET last_seen = :now, lost = FALSE WHERE worker_id = ANY(:keys)
RETURNING worker_id
""",
    TEXT,
)
_COUNT_ENDED = Many(
    """
UPDATE workers SET total_jobs_completed = total_jobs_completed + :completed,
    total_jobs_failed = total_jobs_failed + :failed, last_seen = :now
WHERE workers.worker_id = :worker_id
""",
    completed=INT,
    failed=INT,
    now="float8",
    worker_id=TEXT,
)
_FAILURES = frozenset({Outcome.FAILED, Outcome.TIMEOUT})


def renew(
    tx: Transaction, calls: Sequence[Renewals], *, lease_seconds: float
) -> list[list[RefVerdict] | WorkerUnknownError]:
    """Extend leases to a whole lease from now; the answer to an unknown worker is an error."""
    jobs = load_jobs(tx, {ref.job_id for _, refs in calls for ref in refs})
    return renew_loaded(tx, jobs, calls, lease_seconds=lease_seconds)


def renew_loaded(
    tx: Transaction, jobs: Jobs, calls: Sequence[Renewals], *, lease_seconds: float
) -> list[list[RefVerdict] | WorkerUnknownError]:
    """Do it with jobs that were read."""
    known = {row["worker_id"] for row in tx.among(_SEEN, _workers(calls), now=tx.now)}
    ledger = Ledger(tx)
    answers: list[list[RefVerdict] | WorkerUnknownError] = []
    for worker_id, refs in calls:
        if worker_id not in known:
            answers.append(WorkerUnknownError(worker_id))
            continue
        verdicts = []
        for ref in refs:
            event = Renew(worker_id, ref.attempt, lease_seconds)
            verdict = _verdict(ledger, jobs.get(ref.job_id), event)
            verdicts.append(RefVerdict(ref.job_id, ref.attempt, verdict))
        answers.append(verdicts)
    ledger.write()
    return answers


def update_status(tx: Transaction, calls: Sequence[Updates]) -> list[list[RefVerdict]]:
    """Move attempts forward; what arrives late and would move one back changes nothing."""
    jobs = load_jobs(tx, {update.job_id for _, updates in calls for update in updates})
    ledger = Ledger(tx)
    answers = []
    for worker_id, updates in calls:
        verdicts = []
        for said in updates:
            event = Say(worker_id, said.attempt, said.status, said.message)
            verdict = _verdict(ledger, jobs.get(said.job_id), event)
            verdicts.append(RefVerdict(said.job_id, said.attempt, verdict))
        answers.append(verdicts)
    ledger.write()
    return answers


def _verdict(ledger: Ledger, loaded: LoadedJob | None, event: Renew | Say) -> Fence:
    return Fence.STALE if loaded is None else ledger.step(loaded, event).verdict


def append_chunks(tx: Transaction, calls: Sequence[Chunks]) -> list[list[ChunkAck]]:
    """Append tokens and rows, each exactly once and in order; one ack for each attempt named.

    A chunk that brings nothing, as a bare final one, is acknowledged and leaves no event; so is
    a row that the job does not have.
    """
    jobs = load_jobs(tx, {chunk.job_id for _, chunks in calls for chunk in chunks})
    load_pasts(tx, jobs, _refs(calls))
    load_streams(tx, jobs)
    ledger = Ledger(tx)
    answers = []
    for worker_id, chunks in calls:
        by_attempt: dict[tuple[str, int], list[Chunk]] = {}
        for chunk in chunks:
            by_attempt.setdefault((chunk.job_id, chunk.attempt), []).append(chunk)
        acks = []
        for (job_id, attempt), some in by_attempt.items():
            loaded = jobs.get(job_id)
            if loaded is None:
                acks.append(ChunkAck(job_id, attempt, 0, Fence.STALE))
            else:
                acks.append(_append(ledger, loaded, worker_id, attempt, some))
        answers.append(acks)
    ledger.write()
    return answers


def _append(
    ledger: Ledger, loaded: LoadedJob, worker_id: str, attempt: int, chunks: Sequence[Chunk]
) -> ChunkAck:
    numbers = [chunk.sequence for chunk in chunks]
    past = loaded.pasts.get(attempt)
    step = ledger.step(loaded, Append(worker_id, attempt, numbers, past))
    for place in step.kept:
        _keep(ledger, loaded, chunks[place])
    position = 0 if step.verdict is Fence.STALE else step.job.next_chunk
    return ChunkAck(loaded.job_id, attempt, position, step.verdict)


def _keep(ledger: Ledger, loaded: LoadedJob, chunk: Chunk) -> None:
    """Log what a chunk brings, and note how much more room the job takes when claimed again."""
    if chunk.content or chunk.token_ids:
        ledger.log(loaded, "token", token_text(chunk))
        loaded.bytes_grown += room_taken(chunk.content, chunk.token_ids)
    if chunk.row is not None and chunk.row.index < loaded.row["row_count"]:
        event = row_event(chunk.row, chunk.attempt)
        ledger.log(loaded, "row", event)
        loaded.bytes_grown += len(event.encode())


def report(tx: Transaction, calls: Sequence[Reports], *, random: Random) -> list[list[RefVerdict]]:
    """End attempts as their workers say."""
    jobs = load_jobs(tx, {said.job_id for _, reports in calls for said in reports})
    return report_loaded(tx, jobs, calls, random=random)


def report_loaded(
    tx: Transaction, jobs: Jobs, calls: Sequence[Reports], *, random: Random
) -> list[list[RefVerdict]]:
    """Do it with jobs that were read."""
    load_pasts(tx, jobs, _refs(calls))
    ledger, results = Ledger(tx, random), Results(tx)
    completed: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    answers = []
    for worker_id, reports in calls:
        verdicts = []
        for said in reports:
            loaded = jobs.get(said.job_id)
            verdict = Fence.STALE
            if loaded is not None:
                step = _end(ledger, loaded, worker_id, said)
                results.keep(loaded, said, step.keep)
                verdict = step.verdict
                if step.ended is not None:
                    completed[worker_id] += step.ended.outcome is Outcome.COMPLETED
                    failed[worker_id] += step.ended.outcome in _FAILURES
            verdicts.append(RefVerdict(said.job_id, said.attempt, verdict))
        answers.append(verdicts)
    ledger.write()
    results.write()
    tx.write(_COUNT_ENDED, [(completed[w], failed[w], tx.now, w) for w in _workers(calls)])
    return answers


def _end(ledger: Ledger, loaded: LoadedJob, worker_id: str, said: Report) -> Step:
    event = lease_core.Report(
        worker_id,
        said.attempt,
        state=said.status,
        error_code=said.error_code,
        error=said.error,
        retryable=said.retryable,
        engine_jobs=said.engine_jobs,
        past=loaded.pasts.get(said.attempt),
    )
    return ledger.step(loaded, event)


def release(tx: Transaction, calls: Sequence[Releases]) -> list[list[RefVerdict]]:
    """Give jobs back to the queue at once; no retry is charged."""
    jobs = load_jobs(tx, {said.job_id for _, releases in calls for said in releases})
    ledger = Ledger(tx)
    answers = []
    for worker_id, releases in calls:
        verdicts = []
        for said in releases:
            loaded = jobs.get(said.job_id)
            verdict = Fence.STALE
            if loaded is not None:
                verdict = release_attempt(ledger, loaded, worker_id, said)
            verdicts.append(RefVerdict(said.job_id, said.attempt, verdict))
        answers.append(verdicts)
    ledger.write()
    return answers


def release_attempt(ledger: Ledger, loaded: LoadedJob, worker_id: str, said: Release) -> Fence:
    """Let an attempt be handed back; what it turned out to need is asked for from now on."""
    event = lease_core.Release(worker_id, said.attempt, said.reason)
    if said.min_memory_mb or said.min_gpu_memory_mb:
        foreseen = ledger.foresee(loaded, event)
        if foreseen.ended is not None and foreseen.job.state is JobState.PENDING:
            needs = raise_needs(ledger.tx, loaded, said.min_memory_mb, said.min_gpu_memory_mb)
            remark = f"; from now on it asks for {needs}" if needs else ""
            event = replace(event, remark=remark)
    return ledger.step(loaded, event).verdict


def _workers(calls: Iterable[tuple[str, Values]]) -> list[str]:
    """Who says it, in the order in which all lock workers."""
    return sorted({worker_id for worker_id, _ in calls})


def _refs(calls: Iterable[Chunks] | Iterable[Reports]) -> Iterable[tuple[str, str, int]]:
    return ((worker_id, one.job_id, one.attempt) for worker_id, some in calls for one in some)
