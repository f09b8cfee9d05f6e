"""Leases of a worker whose stream broke: they end soon, unless it opened another one meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

from .jobs_loaded import HELD, LOCK_FREE_JOBS
from .transaction import Transaction

_WATCH = """
INSERT INTO watches (worker_id, instance_id, watch_id)
SELECT worker_id, instance_id, :watch_id FROM workers
WHERE worker_id = :worker_id AND instance_id = :instance_id
ON CONFLICT (worker_id) DO UPDATE
    SET instance_id = excluded.instance_id, watch_id = excluded.watch_id
RETURNING worker_id
"""
# A job that another call holds at this moment belongs to a worker that is heard: it is left alone.
_SHORTEN = f"""
UPDATE jobs SET lease_expires_at = :until WHERE seq IN (
    SELECT jobs.seq FROM {HELD} AND jobs.lease_expires_at > :until AND attempts.worker_id = (
        SELECT workers.worker_id FROM workers JOIN watches
            ON watches.worker_id = workers.worker_id
            AND watches.instance_id = workers.instance_id
        WHERE workers.worker_id = :worker_id AND watches.watch_id = :watch_id
    )
    {LOCK_FREE_JOBS}
) RETURNING job_id
"""  # noqa: S608  constants only


def watch(tx: Transaction, worker_id: str, instance_id: str, watch_id: str) -> bool:
    """Note which stream a worker's process opened last; return whether that process is known."""
    row = {"worker_id": worker_id, "instance_id": instance_id, "watch_id": watch_id}
    return tx.one(_WATCH, row) is not None


def suspect(tx: Transaction, broken: Iterable[tuple[str, str]], seconds: float) -> int:
    """Let no lease of some workers last longer than `seconds`; return how many were shortened.

    `broken` are workers and the stream that broke; it counts only if it is the last that the
    worker's present process opened.
    """
    shortened = 0
    for worker_id, watch_id in sorted(broken):
        row = {"worker_id": worker_id, "watch_id": watch_id, "until": tx.now + seconds}
        shortened += len(tx.all(_SHORTEN, row))
    return shortened
