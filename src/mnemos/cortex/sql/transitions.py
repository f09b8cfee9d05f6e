"""Every change of a job's state: the row, its log, the tallies and who is told, in one place."""

from __future__ import annotations

import json
from typing import Any

from ..notifier import DELAYED_TOPIC, group_topic, job_topic, runtime_topic
from ..state_machine import ACTIVE, PHASES, JobState, Outcome, Phase, check_transition
from .engine import LOCK
from .progress import begins_again
from .rows import ROW_JOB_TYPES
from .transaction import Row, Transaction

JOB_COLUMNS = """
    seq, job_id, lane_id, status, queued, delayed, priority, runtime, retry_config, group_name,
    attempt, retries_used, worker_id, renewed, next_chunk, status_message, cancel_requested,
    submitted_at, available_at, started_at, timeout_seconds, size_bytes, lease_expires_at,
    deadline_at, job_type, engine_crashes, row_count, void_attempts
"""
_BY_ID = f"""
SELECT {JOB_COLUMNS} FROM jobs WHERE job_id = :job_id {LOCK}
"""  # noqa: S608  constants only

_TO_ACQUIRED = """
UPDATE jobs SET status = 'acquired', queued = FALSE, worker_id = :worker_id, attempt = :attempt,
    claim_request_id = :request_id, renewed = FALSE, next_chunk = 0, status_message = NULL,
    started_at = COALESCE(started_at, :now), lease_expires_at = :lease_expires_at,
    deadline_at = :deadline_at
WHERE seq = :seq
"""
_FORWARD = "UPDATE jobs SET status = :status, status_message = :message WHERE seq = :seq"
_TO_PENDING = """
UPDATE jobs SET status = 'pending', queued = :queued, delayed = :delayed,
    available_at = :available_at, worker_id = NULL, claim_request_id = NULL,
    lease_expires_at = NULL, deadline_at = NULL, cancel_requested = FALSE,
    retries_used = :retries_used, status_message = :message, finished_at = NULL,
    finish_seq = NULL, error_code = NULL, error = NULL, error_retryable = NULL
WHERE seq = :seq
"""
_TO_END = """
UPDATE jobs SET status = :status, queued = FALSE, delayed = FALSE, finished_at = :now,
    lease_expires_at = NULL, deadline_at = NULL, status_message = NULL,
    claim_request_id = NULL, error_code = :error_code, error = :error,
    error_retryable = :error_retryable
WHERE seq = :seq
"""
_APPEND_EVENT = """
INSERT INTO job_events (job_seq, sequence, kind, data, at)
SELECT :seq, COALESCE(MAX(sequence), -1) + 1, :kind, :data, :now
FROM job_events WHERE job_seq = :seq
"""
_FORGET_PAST = """
UPDATE jobs SET engine_crashes = 0, void_attempts = attempt WHERE seq = :seq
"""
_FORGET_RESULT = "DELETE FROM job_results WHERE job_seq = :seq"
_BEGIN_ATTEMPT = """
INSERT INTO attempts (job_seq, attempt, worker_id, started_at, reported)
VALUES (:seq, :attempt, :worker_id, :now, FALSE)
"""
_END_ATTEMPT = """
UPDATE attempts SET ended_at = :now, outcome = :outcome, reported = :reported,
    error_code = :error_code, error = :error
WHERE job_seq = :seq AND attempt = :attempt AND ended_at IS NULL
"""


def find_job(tx: Transaction, job_id: str) -> Row | None:
    """Return the columns of a job that changes of state need; nobody else changes it meanwhile."""
    return tx.one(_BY_ID, {"job_id": job_id})


def append_event(tx: Transaction, job: Row, kind: str, data: str) -> None:
    """Add a line to a job's log; sequences have no gaps."""
    tx.run(_APPEND_EVENT, {"seq": job["seq"], "kind": kind, "data": data, "now": tx.now})
    tx.topics.add(job_topic(job["job_id"]))


def note_created(tx: Transaction, job: Row) -> None:
    """Count and log a job that was just inserted as pending."""
    _count(tx, job, JobState.PENDING, +1)
    _log_state(tx, job, JobState.PENDING, attempt=0, worker_id=None, message="")
    tx.topics.add(runtime_topic(job["runtime"]))


def acquire(
    tx: Transaction, job: Row, worker_id: str, request_id: str, lease_seconds: float
) -> int:
    """Give a pending job to a worker under a new attempt number, and return that."""
    attempt = int(job["attempt"]) + 1
    _change(tx, job, JobState.ACQUIRED)
    parameters = {
        "seq": job["seq"],
        "worker_id": worker_id,
        "attempt": attempt,
        "request_id": request_id,
        "now": tx.now,
        "lease_expires_at": tx.now + lease_seconds,
        "deadline_at": tx.now + job["timeout_seconds"],
    }
    tx.run(_TO_ACQUIRED, parameters)
    tx.run(_BEGIN_ATTEMPT, parameters)
    if job["attempt"] and _begins_again(tx, job):
        reason = job["status_message"] or "the attempt before was given up"
        append_event(tx, job, "restart", _json(attempt=attempt, reason=reason))
    _log_state(tx, job, JobState.ACQUIRED, attempt=attempt, worker_id=worker_id, message="")
    if job["started_at"] is None:
        tx.measured.waits.append(max(0.0, tx.now - job["submitted_at"]))
    return attempt


def _begins_again(tx: Transaction, job: Row) -> bool:
    """Whether what a reader has is void; finished rows are so only after a retry by hand."""
    if job["job_type"] in ROW_JOB_TYPES:
        return bool(job["attempt"] == job["void_attempts"])
    return begins_again(tx, job)


def forward(tx: Transaction, job: Row, to: JobState, message: str) -> None:
    """Move a running job forward within its attempt, or only say something new about it."""
    if to.value != job["status"]:
        _change(tx, job, to)
    tx.run(_FORWARD, {"seq": job["seq"], "status": to.value, "message": message or None})
    worker_id = job["worker_id"]
    _log_state(tx, job, to, attempt=job["attempt"], worker_id=worker_id, message=message)


def requeue(
    tx: Transaction, job: Row, *, delay_seconds: float, retries_used: int, message: str
) -> None:
    """Put a job back to pending, at once or after a delay."""
    _change(tx, job, JobState.PENDING)
    delayed = delay_seconds > 0
    parameters = {
        "seq": job["seq"],
        "queued": not delayed,
        "delayed": delayed,
        "available_at": tx.now + delay_seconds,
        "retries_used": retries_used,
        "message": message or None,
    }
    tx.run(_TO_PENDING, parameters)
    if delayed:
        tx.count("queue", "delayed", +1)
    tx.topics.add(DELAYED_TOPIC if delayed else runtime_topic(job["runtime"]))
    attempt = job["attempt"]
    _log_state(tx, job, JobState.PENDING, attempt=attempt, worker_id=None, message=message)


def forget_past(tx: Transaction, job: Row) -> None:
    """Let an ended job begin anew: what earlier attempts brought and did counts no more."""
    tx.run(_FORGET_PAST, {"seq": job["seq"]})
    tx.run(_FORGET_RESULT, {"seq": job["seq"]})


def finish(
    tx: Transaction,
    job: Row,
    to: JobState,
    *,
    error_code: str | None = None,
    error: str | None = None,
    retryable: bool | None = None,
) -> None:
    """End a job."""
    _change(tx, job, to)
    parameters = {
        "seq": job["seq"],
        "status": to.value,
        "now": tx.now,
        "error_code": error_code,
        "error": error,
        "error_retryable": retryable,
    }
    tx.run(_TO_END, parameters)
    if job["group_name"] is not None:
        tx.finished.append(job["seq"])
    attempt, worker_id = job["attempt"], job["worker_id"]
    _log_state(tx, job, to, attempt=attempt, worker_id=worker_id, message=error or "")
    tx.measured.ended[to.value] += 1
    tx.measured.attempts.append(attempt)
    if job["started_at"] is not None:
        tx.measured.durations.append(max(0.0, tx.now - job["started_at"]))


def end_attempt(
    tx: Transaction,
    job: Row,
    outcome: Outcome,
    *,
    reported: bool,
    error_code: str | None = None,
    error: str | None = None,
) -> None:
    """Close the record of a job's present attempt."""
    parameters = {
        "seq": job["seq"],
        "attempt": job["attempt"],
        "now": tx.now,
        "outcome": outcome.value,
        "reported": reported,
        "error_code": error_code,
        "error": error,
    }
    tx.run(_END_ATTEMPT, parameters)


def is_held(job: Row) -> bool:
    """Say whether some attempt holds the job."""
    return JobState(job["status"]) in ACTIVE


def _change(tx: Transaction, job: Row, to: JobState) -> None:
    source = JobState(job["status"])
    check_transition(source, to)
    if source is JobState.PENDING and job["delayed"]:
        tx.count("queue", "delayed", -1)
    _count(tx, job, source, -1)
    _count(tx, job, to, +1)


def _count(tx: Transaction, job: Row, state: JobState, delta: int) -> None:
    phase = PHASES[state]
    tx.count("status", state.value, delta)
    if phase is not Phase.FINISHED:
        tx.count(f"lane/{job['lane_id']}/{job['priority']}", phase.value, delta)
    if job["group_name"] is not None:
        tx.count(f"group/{job['group_name']}", phase.value, delta)
        tx.topics.add(group_topic(job["group_name"]))


def _log_state(
    tx: Transaction,
    job: Row,
    state: JobState,
    *,
    attempt: int,
    worker_id: str | None,
    message: str,
) -> None:
    fields: dict[str, Any] = {"status": state.value, "attempt": attempt, "worker_id": worker_id}
    if message:
        fields["message"] = message
    append_event(tx, job, "state", _json(**fields))


def _json(**fields: Any) -> str:
    return json.dumps(fields, separators=(",", ":"))
