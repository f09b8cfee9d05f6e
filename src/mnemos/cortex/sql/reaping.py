"""What is overdue: leases, timeouts, silent workers; and delayed jobs whose time has come."""

from __future__ import annotations

from collections.abc import Sequence

from ..lease_core import DeadlineCheck, Event, LeaseCheck, WorkerGone
from ..notifier import runtime_topic
from ..records import Reaped
from .carry_out import Ledger, Random
from .engine import LOCK_FREE
from .jobs_loaded import HELD, JOB_COLUMNS, LOCK_FREE_JOBS, LoadedJob
from .many import INT, Many
from .transaction import Row, Transaction

BATCH = 500

_EXPIRED = f"""
SELECT {JOB_COLUMNS} FROM {HELD} AND jobs.lease_expires_at <= :now
ORDER BY jobs.lease_expires_at LIMIT {BATCH} {LOCK_FREE_JOBS}
"""  # noqa: S608  constants only
_OVERDUE = f"""
SELECT {JOB_COLUMNS} FROM {HELD} AND jobs.deadline_at <= :before
ORDER BY jobs.deadline_at LIMIT {BATCH} {LOCK_FREE_JOBS}
"""  # noqa: S608  constants only
_SILENT = f"""
UPDATE workers SET lost = TRUE WHERE worker_id IN (
    SELECT worker_id FROM workers WHERE NOT lost AND last_seen <= :before {LOCK_FREE}
) RETURNING worker_id
"""  # noqa: S608  constants only
_FORGET = f"""
DELETE FROM workers WHERE worker_id IN (
    SELECT worker_id FROM workers WHERE lost AND last_seen <= :before
        AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.worker_id = workers.worker_id
            AND attempts.ended_at IS NULL)
    {LOCK_FREE}
) RETURNING worker_id
"""  # noqa: S608  constants only
_PROMOTE = f"""
UPDATE jobs SET delayed = FALSE WHERE seq IN (
    SELECT seq FROM jobs WHERE delayed AND available_at <= :now LIMIT {BATCH} {LOCK_FREE}
) RETURNING runtime, lane_id, seq
"""  # noqa: S608  constants only
_ENTER_LANES = Many(
    "UPDATE queue SET lane_id = :lane WHERE queue.job_seq = :seq", lane=INT, seq=INT
)
_NEXT_DUE = "SELECT MIN(available_at) AS due FROM jobs WHERE delayed"
_RENEW_ALL = """
UPDATE jobs SET lease_expires_at = :until,
    deadline_at = CASE WHEN deadline_at < :until THEN :until ELSE deadline_at END
WHERE seq IN (SELECT job_seq FROM attempts WHERE ended_at IS NULL)
"""
_HEAR_ALL = "UPDATE workers SET last_seen = :now WHERE NOT lost"


def grant_grace(tx: Transaction, lease_seconds: float) -> None:
    """After a start, give every worker one whole lease to be heard again, and to report."""
    tx.run(_RENEW_ALL, {"until": tx.now + lease_seconds})
    tx.run(_HEAR_ALL, {"now": tx.now})


def expire_leases(tx: Transaction, most_lost: int, random: Random) -> Reaped:
    """Take jobs from workers that stopped renewing."""
    rows = tx.all(_EXPIRED, {"now": tx.now})
    return Reaped(leases_expired=_let_happen(tx, rows, LeaseCheck(most_lost), random))


def end_overdue(tx: Transaction, grace_seconds: float, random: Random) -> Reaped:
    """End attempts whose timeout is long over, should their worker not have done so."""
    rows = tx.all(_OVERDUE, {"before": tx.now - grace_seconds})
    return Reaped(timed_out=_let_happen(tx, rows, DeadlineCheck(grace_seconds), random))


def lose_attempts(
    tx: Transaction, rows: Sequence[Row], reason: str, most_lost: int, random: Random
) -> None:
    """End attempts whose worker is gone."""
    _let_happen(tx, rows, WorkerGone(reason, most_lost), random)


def _let_happen(tx: Transaction, rows: Sequence[Row], event: Event, random: Random) -> int:
    """Return how many attempts ended by it."""
    ledger = Ledger(tx, random)
    ended = [ledger.step(LoadedJob(row), event).ended for row in rows]
    ledger.write()
    return len(ended) - ended.count(None)


def lose_workers(tx: Transaction, silence_seconds: float, retention_seconds: float) -> Reaped:
    """Mark workers that have been silent, and forget those silent for very long."""
    lost = tx.all(_SILENT, {"before": tx.now - silence_seconds})
    forgotten = tx.all(_FORGET, {"before": tx.now - retention_seconds})
    return Reaped(workers_lost=len(lost), workers_forgotten=len(forgotten))


def promote_due(tx: Transaction) -> float | None:
    """Queue delayed jobs that are due; return the seconds until the next one is."""
    rows = tx.all(_PROMOTE, {"now": tx.now})
    if rows:
        tx.write(_ENTER_LANES, [(row["lane_id"], row["seq"]) for row in rows])
        tx.count("queue", "delayed", -len(rows))
        tx.topics.update({runtime_topic(row["runtime"]) for row in rows})
    nearest = tx.one(_NEXT_DUE, {})
    if nearest is None or nearest["due"] is None:
        return None
    return max(0.0, float(nearest["due"]) - tx.now)
