"""What people do to jobs: submit, cancel, retry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..errors import ConflictError, JobNotFoundError
from ..ids import new_id
from ..notifier import worker_topic
from ..records import AttemptRef, NewJob, Submitted
from ..state_machine import RETRYABLE_BY_HAND, JobState
from .engine import LOCK
from .lanes import Demands, lane_of
from .redriving import retry_anew
from .transaction import Row, Transaction
from .transitions import JOB_COLUMNS, find_job, finish, is_held, note_created

_BY_KEY = """
SELECT job_id, status, request_hash FROM jobs WHERE idempotency_key = :key
"""
_INSERT_JOB = f"""
INSERT INTO jobs (job_id, lane_id, status, queued, delayed, job_type, priority, family, version,
    runtime, timeout_seconds, retry_config, min_memory_mb, min_gpu_memory_mb, tags, group_name,
    idempotency_key, request_hash, trace, size_bytes, attempt, retries_used, renewed, next_chunk,
    cancel_requested, submitted_at, available_at, row_count)
VALUES (:job_id, :lane_id, 'pending', TRUE, FALSE, :job_type, :priority, :family, :version,
    :runtime, :timeout_seconds, :retry_config, :min_memory_mb, :min_gpu_memory_mb, :tags, :group,
    :idempotency_key, :request_hash, :trace, :size_bytes, 0, 0, FALSE, 0, FALSE, :now, :now,
    :row_count)
ON CONFLICT (idempotency_key) DO NOTHING
RETURNING {JOB_COLUMNS}
"""  # noqa: S608  constants only
_INSERT_INPUT = """
INSERT INTO job_inputs (job_seq, input, runtime_config, metadata)
VALUES (:seq, :input, :runtime_config, :metadata)
"""
_UNFINISHED_OF_GROUP = f"""
SELECT {JOB_COLUMNS} FROM jobs
WHERE group_name = :group AND status NOT IN ('completed', 'failed', 'cancelled', 'timeout')
    AND NOT cancel_requested
ORDER BY seq {LOCK}
"""  # noqa: S608  constants only
_ADD_ACTION = """
INSERT INTO actions (action_id, worker_id, kind, reason, jobs, config, deadline_seconds)
SELECT :action_id, worker_id, :kind, :reason, :jobs, '', :deadline_seconds
FROM workers WHERE worker_id = :worker_id
"""


def submit(tx: Transaction, new_jobs: Sequence[NewJob]) -> list[Submitted]:
    """Store jobs; those whose idempotency key is known are given back instead."""
    lanes: dict[Demands, int] = {}
    return [_submit_one(tx, job, lanes) for job in new_jobs]


def _submit_one(tx: Transaction, new: NewJob, lanes: dict[Demands, int]) -> Submitted:
    known = _find_known(tx, new)
    if known is not None:
        return known
    tags = json.dumps(dict(sorted(new.tags.items())))
    parameters: dict[str, Any] = {
        "job_id": new.job_id,
        "lane_id": _lane_of(tx, new, tags, lanes),
        "job_type": new.job_type,
        "priority": new.priority,
        "family": new.family,
        "version": new.version,
        "runtime": new.runtime,
        "timeout_seconds": new.timeout_seconds,
        "retry_config": new.retry_config,
        "min_memory_mb": new.min_memory_mb,
        "min_gpu_memory_mb": new.min_gpu_memory_mb,
        "tags": tags,
        "group": new.group,
        "idempotency_key": new.idempotency_key,
        "request_hash": new.request_hash,
        "trace": new.trace,
        "row_count": new.row_count,
        "size_bytes": len(new.input.encode()) + len(new.runtime_config) + len(new.metadata),
        "now": tx.now,
    }
    row = tx.one(_INSERT_JOB, parameters)
    if row is None:  # somebody else was a moment faster with the same key
        known = _find_known(tx, new)
        assert known is not None
        return known
    payload = {
        "seq": row["seq"],
        "input": new.input,
        "runtime_config": new.runtime_config,
        "metadata": new.metadata,
    }
    tx.run(_INSERT_INPUT, payload)
    note_created(tx, row)
    return Submitted(new.job_id, JobState.PENDING, created=True, submitted_at=tx.now)


def _find_known(tx: Transaction, new: NewJob) -> Submitted | None:
    if new.idempotency_key is None:
        return None
    known = tx.one(_BY_KEY, {"key": new.idempotency_key})
    return None if known is None else _known_job(new, known)


def _known_job(new: NewJob, known: Row) -> Submitted:
    conflict = None
    if known["request_hash"] != new.request_hash:
        conflict = (
            f"The idempotency key {new.idempotency_key!r} was used for another request "
            f"(job {known['job_id']})."
        )
    return Submitted(known["job_id"], JobState(known["status"]), created=False, conflict=conflict)


def _lane_of(tx: Transaction, new: NewJob, tags: str, lanes: dict[Demands, int]) -> int:
    demands = Demands(
        runtime=new.runtime,
        job_type=new.job_type,
        family=new.family,
        version=new.version,
        min_memory_mb=new.min_memory_mb,
        min_gpu_memory_mb=new.min_gpu_memory_mb,
        tags=tags,
    )
    if demands not in lanes:
        lanes[demands] = lane_of(tx, demands)
    return lanes[demands]


def cancel(tx: Transaction, job_id: str) -> None:
    """Stop a job: at once while it is pending, through its worker while it runs."""
    job = find_job(tx, job_id)
    if job is None:
        raise JobNotFoundError(job_id)
    state = JobState(job["status"])
    if state is JobState.CANCELLED or (is_held(job) and job["cancel_requested"]):
        return
    if state is not JobState.PENDING and not is_held(job):
        raise ConflictError(f"Job {job_id} cannot be cancelled: it has ended as {state}.")
    _cancel_rows(tx, [job])


def cancel_group(tx: Transaction, group: str) -> int:
    """Stop every unfinished job of a group."""
    rows = tx.all(_UNFINISHED_OF_GROUP, {"group": group})
    _cancel_rows(tx, rows)
    return len(rows)


def _cancel_rows(tx: Transaction, jobs: Sequence[Row]) -> None:
    by_worker: dict[str, list[AttemptRef]] = {}
    for job in jobs:
        if JobState(job["status"]) is JobState.PENDING:
            finish(
                tx, job, JobState.CANCELLED, error_code="cancelled", error="The job was cancelled."
            )
            continue
        mark = "UPDATE jobs SET cancel_requested = TRUE WHERE seq = :seq"
        tx.run(mark, {"seq": job["seq"]})
        held = by_worker.setdefault(job["worker_id"], [])
        held.append(AttemptRef(job["job_id"], job["attempt"]))
    for worker_id, refs in by_worker.items():
        add_action(tx, worker_id, "cancel_jobs", "the submitter cancelled", refs)


def add_action(
    tx: Transaction,
    worker_id: str,
    kind: str,
    reason: str,
    refs: Sequence[AttemptRef] = (),
    *,
    deadline_seconds: float | None = None,
) -> None:
    """Ask something of a worker; nothing happens if it is gone."""
    parameters = {
        "action_id": new_id("act"),
        "worker_id": worker_id,
        "kind": kind,
        "reason": reason,
        "jobs": json.dumps([[ref.job_id, ref.attempt] for ref in refs]),
        "deadline_seconds": deadline_seconds,
    }
    tx.run(_ADD_ACTION, parameters)
    tx.topics.add(worker_topic(worker_id))


def retry(tx: Transaction, job_id: str) -> None:
    """Queue an ended job again, with all its retries before it and nothing of its past."""
    job = find_job(tx, job_id)
    if job is None:
        raise JobNotFoundError(job_id)
    if JobState(job["status"]) not in RETRYABLE_BY_HAND:
        raise ConflictError(f"Job {job_id} cannot be retried: it is {job['status']}.")
    retry_anew(tx, job)
