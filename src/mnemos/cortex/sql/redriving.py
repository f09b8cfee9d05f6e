"""Ended jobs that are queued again: one by a person, many by what they have in common.

Whoever redrives finds jobs beside the writer, which is given a few at a time: it looks at each
again, under a lock, and takes those that still fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import merge
from itertools import islice
from typing import Any

from ..lease_core import RetryByHand
from ..records import DeadLetters, Fence
from .carry_out import Ledger
from .engine import LOCK, Connection
from .jobs_loaded import JOB_COLUMNS, LoadedJob
from .many import INT, Among
from .pruning import reopen_log
from .transaction import Transaction

STEP = 100
"""The most jobs that one commit queues again."""


@dataclass(frozen=True, slots=True)
class Found:
    """Jobs that fitted when they were looked for, the oldest first."""

    seqs: Sequence[int]
    job_ids: Sequence[str]


def retry_anew(ledger: Ledger, loaded: LoadedJob) -> Fence:
    """Queue an ended job again, with all its retries before it and nothing of its past."""
    if ledger.foresee(loaded, RetryByHand()).forgets:
        reopen_log(ledger, loaded)
    return ledger.step(loaded, RetryByHand()).verdict


def find(connection: Connection, which: DeadLetters, after_seq: int, limit: int) -> Found:
    """Return the oldest jobs that fit, submitted after a position; at most STEP."""
    conditions, parameters = _fitting(which)
    query = f"""
        SELECT seq, job_id FROM jobs
        WHERE error_code IS NOT NULL AND status = :status AND seq > :after {conditions}
        ORDER BY seq LIMIT :limit
    """  # noqa: S608  constants only
    limit = min(limit, STEP)
    lists = []
    for status in which.statuses:
        told = {**parameters, "status": status.value, "after": after_seq, "limit": limit}
        rows = connection.execute(query, told).fetchall()
        lists.append([(row["seq"], row["job_id"]) for row in rows])
    found = list(islice(merge(*lists), limit))
    return Found([seq for seq, _ in found], [job_id for _, job_id in found])


def count(connection: Connection, which: DeadLetters, limit: int) -> int:
    """Count the jobs that fit, up to `limit`."""
    conditions, parameters = _fitting(which)
    query = f"""
        SELECT COUNT(*) AS n FROM (
            SELECT 1 FROM jobs
            WHERE error_code IS NOT NULL AND status = :status {conditions} LIMIT :limit
        ) AS fitting
    """  # noqa: S608  constants only
    total = 0
    for status in which.statuses:
        told = {**parameters, "status": status.value, "limit": limit}
        total += connection.execute(query, told).fetchone()["n"]
    return min(total, limit)


def queue_again(tx: Transaction, which: DeadLetters, found: Found) -> int:
    """Queue again what was found and still fits; return how many that were."""
    conditions, parameters = _fitting(which)
    wanted = {status.value for status in which.statuses}
    rows = tx.among(_still_fitting(conditions), found.seqs, **parameters)
    fitting = [job for job in rows if job["status"] in wanted]
    ledger = Ledger(tx)
    for row in fitting:
        retry_anew(ledger, LoadedJob(row))
    ledger.write()
    return len(fitting)


@lru_cache(maxsize=64)
def _still_fitting(conditions: str) -> Among:
    query = f"""
        SELECT {JOB_COLUMNS} FROM jobs WHERE seq = ANY(:keys) {conditions} ORDER BY seq {LOCK}
    """  # noqa: S608  constants only
    return Among(query, INT)


def _fitting(which: DeadLetters) -> tuple[str, dict[str, Any]]:
    """What a filter demands beyond the status, as conditions and their parameters."""
    demands: list[tuple[str, str, Any]] = [
        ("family", "=", which.family),
        ("version", "=", which.version),
        ("group_name", "=", which.group),
        ("error_code", "=", which.error_code),
        ("finished_at", ">=", which.finished_after),
        ("finished_at", "<=", which.finished_before),
    ]
    conditions, parameters = "", {}
    for number, (column, sign, value) in enumerate(demands):
        if value is not None:
            conditions += f" AND {column} {sign} :wanted{number}"
            parameters[f"wanted{number}"] = value
    return conditions, parameters
