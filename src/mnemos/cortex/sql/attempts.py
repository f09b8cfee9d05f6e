"""What a worker says about attempts: they go on, got further, ended, are handed back.

Every call is fenced here: it counts only for the attempt that holds the job, from the worker
that was given it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import WorkerUnknownError
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
from ..state_machine import (
    TRANSITIONS,
    Decision,
    JobState,
    Outcome,
    RetryPolicy,
    decide_after_engine_death,
    decide_after_failure,
)
from .lanes import raise_needs
from .progress import is_streamed, room_taken
from .rows import ROW_JOB_TYPES, row_event
from .transaction import Row, Transaction
from .transitions import append_event, end_attempt, find_job, finish, forward, is_held, requeue

Random = Callable[[], float]

_RENEW = "UPDATE jobs SET lease_expires_at = :until, renewed = TRUE WHERE seq = :seq"
_MARK_RENEWED = "UPDATE jobs SET renewed = TRUE WHERE seq = :seq AND NOT renewed"
_SEEN = """
UPDATE workers SET last_seen = :now, lost = FALSE WHERE worker_id = :worker_id RETURNING worker_id
"""
_REPORTED = """
SELECT attempts.worker_id FROM attempts JOIN jobs ON jobs.seq = attempts.job_seq
WHERE jobs.job_id = :job_id AND attempts.attempt = :attempt AND attempts.reported
"""
_STORE_RESULT = """
INSERT INTO job_results (job_seq, result, output_metadata, metrics)
VALUES (:seq, :result, :output_metadata, :metrics)
ON CONFLICT (job_seq) DO UPDATE SET result = excluded.result,
    output_metadata = excluded.output_metadata, metrics = excluded.metrics
"""
_COUNT_ENDED = """
UPDATE workers SET total_jobs_completed = total_jobs_completed + :completed,
    total_jobs_failed = total_jobs_failed + :failed, last_seen = :now
WHERE worker_id = :worker_id
"""
_COUNT_DEATH = "UPDATE jobs SET engine_crashes = :deaths WHERE seq = :seq"
_ADVANCE = """
UPDATE jobs SET next_chunk = :next, size_bytes = size_bytes + :bytes WHERE seq = :seq
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How an attempt ended that did not complete its job.

    `retryable` is by its nature, whatever the job's policy says; `reported` says that its worker
    told; `engine_jobs` is Report's.
    """

    outcome: Outcome
    code: str
    error: str
    retryable: bool = True
    reported: bool = False
    engine_jobs: int = 0


def _held_by(tx: Transaction, worker_id: str, ref: AttemptRef) -> Row | None:
    job = find_job(tx, ref.job_id)
    if job is None or not is_held(job):
        return None
    if job["attempt"] != ref.attempt or job["worker_id"] != worker_id:
        return None
    return job


def _going_on(job: Row) -> Fence:
    return Fence.CANCELLED if job["cancel_requested"] else Fence.ACCEPTED


def renew(
    tx: Transaction, worker_id: str, refs: Sequence[AttemptRef], lease_seconds: float
) -> list[RefVerdict]:
    """Extend leases to a whole lease from now. Raises WorkerUnknownError."""
    if tx.one(_SEEN, {"worker_id": worker_id, "now": tx.now}) is None:
        raise WorkerUnknownError(worker_id)
    verdicts = []
    for ref in refs:
        job = _held_by(tx, worker_id, ref)
        verdict = Fence.STALE
        if job is not None:
            verdict = _going_on(job)
            tx.run(_RENEW, {"seq": job["seq"], "until": tx.now + lease_seconds})
        verdicts.append(RefVerdict(ref.job_id, ref.attempt, verdict))
    return verdicts


def update_status(
    tx: Transaction, worker_id: str, updates: Sequence[StatusUpdate]
) -> list[RefVerdict]:
    """Move attempts forward; what arrives late and would move one back changes nothing."""
    verdicts = []
    for update in updates:
        job = _held_by(tx, worker_id, AttemptRef(update.job_id, update.attempt))
        verdict = Fence.STALE if job is None else _going_on(job)
        if job is not None:
            tx.run(_MARK_RENEWED, {"seq": job["seq"]})
            if _is_news(job, update):
                forward(tx, job, update.status, update.message)
            elif verdict is Fence.ACCEPTED:
                verdict = Fence.DUPLICATE
        verdicts.append(RefVerdict(update.job_id, update.attempt, verdict))
    return verdicts


def _is_news(job: Row, update: StatusUpdate) -> bool:
    present = JobState(job["status"])
    if update.status is present:
        return bool(update.message) and update.message != job["status_message"]
    return update.status in TRANSITIONS[present]


def append_chunks(tx: Transaction, worker_id: str, chunks: Sequence[Chunk]) -> list[ChunkAck]:
    """Append tokens and rows, each exactly once and in order; one ack for each attempt named.

    A chunk that brings nothing, as a bare final one, is acknowledged and leaves no event; so is
    a row that the job does not have.
    """
    by_attempt: dict[AttemptRef, list[Chunk]] = {}
    for chunk in chunks:
        by_attempt.setdefault(AttemptRef(chunk.job_id, chunk.attempt), []).append(chunk)
    return [_append_to(tx, worker_id, ref, some) for ref, some in by_attempt.items()]


def _append_to(
    tx: Transaction, worker_id: str, ref: AttemptRef, chunks: Sequence[Chunk]
) -> ChunkAck:
    job = _held_by(tx, worker_id, ref)
    if job is None:
        return ChunkAck(ref.job_id, ref.attempt, 0, Fence.STALE)
    first = int(job["next_chunk"])
    position = first
    grown = 0
    for chunk in chunks:
        if chunk.sequence != position:
            continue
        if position == 0 and _begins_to_stream(tx, job):
            forward(tx, job, JobState.STREAMING, "")
        grown += _keep(tx, job, chunk)
        position += 1
    if position != first:
        tx.run(_ADVANCE, {"seq": job["seq"], "next": position, "bytes": grown})
        tx.run(_MARK_RENEWED, {"seq": job["seq"]})
    return ChunkAck(ref.job_id, ref.attempt, position, _going_on(job))


def _begins_to_stream(tx: Transaction, job: Row) -> bool:
    """Whether its first chunk makes a job a streaming one; of an unstreamed answer it does not."""
    if job["status"] == JobState.STREAMING.value:
        return False
    return job["job_type"] in ROW_JOB_TYPES or is_streamed(tx, job)


def _keep(tx: Transaction, job: Row, chunk: Chunk) -> int:
    """Log what a chunk brings; return how much more room the job takes when it is claimed again."""
    grown = 0
    if chunk.content or chunk.token_ids:
        append_event(tx, job, "token", _token_event(chunk))
        grown += room_taken(chunk.content, chunk.token_ids)
    if chunk.row is not None and chunk.row.index < job["row_count"]:
        event = row_event(chunk.row, chunk.attempt)
        append_event(tx, job, "row", event)
        grown += len(event.encode())
    return grown


def _token_event(chunk: Chunk) -> str:
    data = {
        "content": chunk.content,
        "token_ids": list(chunk.token_ids),
        "attempt": chunk.attempt,
    }
    return json.dumps(data, separators=(",", ":"))


def report(
    tx: Transaction, worker_id: str, reports: Sequence[Report], random: Random
) -> list[RefVerdict]:
    """End attempts as their worker says."""
    verdicts = []
    completed = failed = 0
    for said in reports:
        job = _held_by(tx, worker_id, AttemptRef(said.job_id, said.attempt))
        if job is None:
            verdict = _repeat_or_stale(tx, worker_id, said)
        else:
            verdict = Fence.ACCEPTED
            outcome = _end(tx, job, said, random)
            completed += outcome is Outcome.COMPLETED
            failed += outcome in {Outcome.FAILED, Outcome.TIMEOUT}
        verdicts.append(RefVerdict(said.job_id, said.attempt, verdict))
    counts = {"completed": completed, "failed": failed, "worker_id": worker_id, "now": tx.now}
    tx.run(_COUNT_ENDED, counts)
    return verdicts


def _repeat_or_stale(tx: Transaction, worker_id: str, said: Report) -> Fence:
    known = tx.one(_REPORTED, {"job_id": said.job_id, "attempt": said.attempt})
    if known is not None and known["worker_id"] == worker_id:
        return Fence.DUPLICATE
    return Fence.STALE


def _end(tx: Transaction, job: Row, said: Report, random: Random) -> Outcome:
    if job["cancel_requested"] or said.status is JobState.CANCELLED:
        error = said.error or "The job was cancelled."
        end_attempt(tx, job, Outcome.CANCELLED, reported=True, error_code="cancelled", error=error)
        finish(tx, job, JobState.CANCELLED, error_code="cancelled", error=error)
        _keep_partial(tx, job, said)
        return Outcome.CANCELLED
    if said.status is JobState.COMPLETED:
        end_attempt(tx, job, Outcome.COMPLETED, reported=True)
        _keep_output(tx, job, said)
        finish(tx, job, JobState.COMPLETED)
        return Outcome.COMPLETED
    timed_out = said.status is JobState.TIMEOUT
    failure = Failure(
        outcome=Outcome.TIMEOUT if timed_out else Outcome.FAILED,
        code="timeout" if timed_out else said.error_code,
        error=said.error,
        retryable=said.retryable,
        reported=True,
        engine_jobs=said.engine_jobs,
    )
    if fail_attempt(tx, job, failure, random) is JobState.TIMEOUT:
        _keep_partial(tx, job, said)
    return failure.outcome


def _keep_partial(tx: Transaction, job: Row, said: Report) -> None:
    """Keep what an attempt that did not complete had got to; a late completion is not that."""
    if said.result is not None and said.status is not JobState.COMPLETED:
        _keep_output(tx, job, said)


def _keep_output(tx: Transaction, job: Row, said: Report) -> None:
    answer = {
        "seq": job["seq"],
        "result": said.result,
        "output_metadata": said.output_metadata,
        "metrics": said.metrics,
    }
    tx.run(_STORE_RESULT, answer)
    generated = json.loads(said.output_metadata).get("tokens_generated", 0)
    if isinstance(generated, int) and 0 < generated < 2**40:
        tx.measured.tokens += generated
        tx.count("total", "tokens", generated)


def fail_attempt(tx: Transaction, job: Row, failure: Failure, random: Random) -> JobState:
    """End an attempt that brought nothing, decide what becomes of the job, and return that.

    A job whose submitter wants it stopped is not tried again.
    """
    code, error = failure.code, failure.error
    end_attempt(tx, job, failure.outcome, reported=failure.reported, error_code=code, error=error)
    if job["cancel_requested"]:
        finish(tx, job, JobState.CANCELLED, error_code="cancelled", error="The job was cancelled.")
        return JobState.CANCELLED
    decision = _decide(tx, job, failure, random)
    if decision.state is JobState.PENDING:
        requeue(
            tx,
            job,
            delay_seconds=decision.delay_seconds,
            retries_used=decision.retries_used,
            message=f"attempt {job['attempt']} ended: {error}",
        )
        return JobState.PENDING
    if decision.poisonous:
        deaths = job["engine_crashes"] + 1
        error = f"the engine died {deaths} times under this job; last: {error}"
    retryable = failure.retryable and not decision.poisonous
    finish(tx, job, decision.state, error_code=code, error=error, retryable=retryable)
    return decision.state


def _decide(tx: Transaction, job: Row, failure: Failure, random: Random) -> Decision:
    policy = read_policy(job["retry_config"])
    used, by_nature = job["retries_used"], failure.retryable
    if failure.code != "engine_crashed":
        return decide_after_failure(policy, used, failure.code, by_nature=by_nature, random=random)
    deaths = job["engine_crashes"] + 1
    tx.run(_COUNT_DEATH, {"seq": job["seq"], "deaths": deaths})
    return decide_after_engine_death(
        policy,
        used,
        deaths=deaths,
        engine_jobs=failure.engine_jobs,
        by_nature=by_nature,
        random=random,
    )


def read_policy(text: str) -> RetryPolicy:
    """Read a job's stored retry policy."""
    told = json.loads(text)
    return RetryPolicy(
        max_retries=told["max_retries"],
        initial_backoff_seconds=told["initial_backoff_seconds"],
        max_backoff_seconds=told["max_backoff_seconds"],
        retryable_codes=tuple(told["retryable_codes"]),
    )


def release(tx: Transaction, worker_id: str, releases: Sequence[Release]) -> list[RefVerdict]:
    """Give jobs back to the queue at once; no retry is charged."""
    verdicts = []
    for one in releases:
        job = _held_by(tx, worker_id, AttemptRef(one.job_id, one.attempt))
        if job is None:
            verdict = Fence.STALE
        else:
            verdict = _going_on(job)
            release_attempt(tx, job, one)
        verdicts.append(RefVerdict(one.job_id, one.attempt, verdict))
    return verdicts


def release_attempt(tx: Transaction, job: Row, said: Release) -> None:
    """End an attempt that was handed back; what it turned out to need is asked for from now on."""
    reason = said.reason or "the worker handed the job back"
    end_attempt(tx, job, Outcome.RELEASED, reported=False, error=reason)
    if job["cancel_requested"]:
        finish(tx, job, JobState.CANCELLED, error_code="cancelled", error="The job was cancelled.")
        return
    message = f"attempt {job['attempt']} was handed back: {reason}"
    needs = raise_needs(tx, job, said.min_memory_mb, said.min_gpu_memory_mb)
    if needs:
        message += f"; from now on it asks for {needs}"
        moved = find_job(tx, job["job_id"])
        assert moved is not None
        job = moved
    requeue(tx, job, delay_seconds=0, retries_used=job["retries_used"], message=message)
