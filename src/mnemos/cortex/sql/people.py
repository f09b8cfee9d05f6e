"""What people do to jobs that are there: cancel, retry; and what is asked of workers for it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..errors import ConflictError, CortexError, JobNotFoundError
from ..ids import new_id
from ..lease_core import Cancel
from ..notifier import worker_topic
from ..records import AttemptRef, Fence
from .carry_out import Ledger
from .engine import LOCK
from .jobs_loaded import JOB_COLUMNS, LoadedJob, find_job, load_jobs
from .redriving import retry_anew
from .transaction import Transaction

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


def cancel(tx: Transaction, job_ids: Sequence[str]) -> list[CortexError | None]:
    """Stop jobs: at once while they are pending, through their workers while they run.

    The answer is JobNotFoundError, or ConflictError for a job that ended otherwise.
    """
    jobs = load_jobs(tx, set(job_ids))
    verdicts = iter(_cancel(tx, [jobs[job_id] for job_id in job_ids if job_id in jobs]))
    answers: list[CortexError | None] = []
    for job_id in job_ids:
        if job_id not in jobs:
            answers.append(JobNotFoundError(job_id))
        elif next(verdicts) is Fence.STALE:
            state = jobs[job_id].job.state
            sentence = f"Job {job_id} cannot be cancelled: it has ended as {state}."
            answers.append(ConflictError(sentence))
        else:
            answers.append(None)
    return answers


def cancel_group(tx: Transaction, group: str) -> int:
    """Stop every unfinished job of a group."""
    rows = tx.all(_UNFINISHED_OF_GROUP, {"group": group})
    return len(_cancel(tx, [LoadedJob(row) for row in rows]))


def _cancel(tx: Transaction, jobs: Sequence[LoadedJob]) -> list[Fence]:
    ledger = Ledger(tx)
    by_worker: dict[str, list[AttemptRef]] = {}
    verdicts = []
    for loaded in jobs:
        step = ledger.step(loaded, Cancel())
        if step.verdict is Fence.ACCEPTED and step.job.is_held:
            held = by_worker.setdefault(step.job.worker_id or "", [])
            held.append(AttemptRef(loaded.job_id, step.job.attempt))
        verdicts.append(step.verdict)
    ledger.write()
    for worker_id, refs in by_worker.items():
        add_action(tx, worker_id, "cancel_jobs", "the submitter cancelled", refs)
    return verdicts


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
    loaded = find_job(tx, job_id)
    if loaded is None:
        raise JobNotFoundError(job_id)
    ledger = Ledger(tx)
    if retry_anew(ledger, loaded) is Fence.STALE:
        raise ConflictError(f"Job {job_id} cannot be retried: it is {loaded.job.state}.")
    ledger.write()
