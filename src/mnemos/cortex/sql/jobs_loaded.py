"""Jobs read for their next steps: what lease_core decides on, and what only their books need."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import lru_cache

from ..lease_core import Job, PastAttempt
from ..state_machine import JobState, Outcome, RetryPolicy
from .engine import LOCK
from .many import INT, TEXT, Among
from .progress import wants_stream
from .rows import ROW_JOB_TYPES
from .transaction import Row, Transaction

JOB_COLUMNS = """
    jobs.seq, jobs.job_id, jobs.lane_id, jobs.status, jobs.delayed, jobs.priority, jobs.runtime,
    jobs.retry_config, jobs.group_name, jobs.attempt, jobs.retries_used, jobs.worker_id,
    jobs.renewed, jobs.next_chunk, jobs.next_event, jobs.status_message, jobs.cancel_requested,
    jobs.submitted_at, jobs.available_at, jobs.started_at, jobs.timeout_seconds,
    jobs.lease_expires_at, jobs.deadline_at, jobs.job_type, jobs.engine_crashes, jobs.row_count,
    jobs.void_attempts, jobs.lost_workers, jobs.size_bytes, jobs.pruned_lines
"""
HELD = """
attempts JOIN jobs ON jobs.seq = attempts.job_seq WHERE attempts.ended_at IS NULL
"""
"""The jobs that somebody holds, with the attempts that hold them."""

LOCK_JOBS = "/*+ FOR NO KEY UPDATE OF jobs */"
LOCK_FREE_JOBS = "/*+ FOR NO KEY UPDATE OF jobs SKIP LOCKED */"
"""As engine.LOCK and LOCK_FREE, for statements that also read other tables."""

_BY_IDS = Among(
    f"SELECT {JOB_COLUMNS} FROM jobs WHERE job_id = ANY(:keys) ORDER BY seq + 0 {LOCK}",  # noqa: S608
    TEXT,
)
_PASTS = Among(
    """
SELECT job_seq, attempt, worker_id, outcome, reported FROM attempts
WHERE job_seq = ANY(:keys) AND outcome IS NOT NULL
""",
    INT,
)
_INPUTS = Among("SELECT job_seq, input FROM job_inputs WHERE job_seq = ANY(:keys)", INT)


class LoadedJob:
    """A job that nobody else changes meanwhile: as it was read, and as it becomes."""

    __slots__ = (
        "before",
        "bytes_grown",
        "delayed",
        "group",
        "job",
        "job_id",
        "lane_id",
        "next_event",
        "pasts",
        "priority",
        "request_id",
        "row",
        "runtime",
        "seq",
        "started_at",
        "submitted_at",
    )

    def __init__(self, row: Row) -> None:
        (
            self.seq,
            self.job_id,
            self.lane_id,
            status,
            delayed,
            self.priority,
            self.runtime,
            retry_config,
            self.group,
            attempt,
            retries_used,
            worker_id,
            renewed,
            next_chunk,
            self.next_event,
            status_message,
            cancel_requested,
            self.submitted_at,
            available_at,
            self.started_at,
            timeout_seconds,
            lease_expires_at,
            deadline_at,
            job_type,
            engine_crashes,
            _,
            void_attempts,
            lost_workers,
            *_,
        ) = row.values() if isinstance(row, dict) else row  # type: ignore[misc]  # sqlite3.Row
        self.row = row
        """What the database says of it; the first columns are JOB_COLUMNS."""
        self.delayed = bool(delayed)
        self.request_id: str | None = None
        """Of the claim that gives it away."""
        self.bytes_grown = 0
        """How much more room it takes when it is claimed again."""
        self.pasts: dict[int, PastAttempt] = {}
        """Of its ended attempts, those that matter."""
        self.before = self.job = Job(
            state=STATES[status],
            attempt=attempt,
            worker_id=worker_id,
            renewed=bool(renewed),
            cancel_requested=bool(cancel_requested),
            next_chunk=next_chunk,
            available_at=available_at,
            lease_expires_at=lease_expires_at,
            deadline_at=deadline_at,
            retries_used=retries_used,
            engine_crashes=engine_crashes,
            lost_workers=lost_workers,
            void_attempts=void_attempts,
            status_message=status_message,
            timeout_seconds=timeout_seconds,
            policy=read_policy(retry_config),
            streams=job_type in ROW_JOB_TYPES,
        )


STATES = {state.value: state for state in JobState}

Jobs = dict[str, LoadedJob]


def load_jobs(tx: Transaction, job_ids: Collection[str]) -> Jobs:
    """Read jobs by their ids, and lock them in the order that all keep to."""
    rows = tx.among(_BY_IDS, job_ids)
    return {row["job_id"]: LoadedJob(row) for row in rows}


def find_job(tx: Transaction, job_id: str) -> LoadedJob | None:
    """Read one job, and lock it."""
    return load_jobs(tx, [job_id]).get(job_id)


def load_pasts(tx: Transaction, jobs: Jobs, refs: Iterable[tuple[str, str, int]]) -> None:
    """Read how attempts ended that hold their job no more, of (worker, job, attempt) told."""
    wanted = {}
    for worker_id, job_id, attempt in refs:
        loaded = jobs.get(job_id)
        if loaded is None:
            continue
        job = loaded.job
        if not job.is_held or job.attempt != attempt or job.worker_id != worker_id:
            wanted[loaded.seq] = loaded
    for row in tx.among(_PASTS, wanted):
        past = PastAttempt(row["worker_id"], Outcome(row["outcome"]), bool(row["reported"]))
        wanted[row["job_seq"]].pasts[row["attempt"]] = past


def load_streams(tx: Transaction, jobs: Jobs) -> None:
    """Read of jobs whose first chunk may come now whether somebody reads along."""
    waiting = {
        loaded.seq: loaded
        for loaded in jobs.values()
        if loaded.job.is_held
        and loaded.job.next_chunk == 0
        and loaded.job.state is not JobState.STREAMING
        and not loaded.job.streams
    }
    for row in tx.among(_INPUTS, waiting):
        if wants_stream(row["input"]):
            loaded = waiting[row["job_seq"]]
            loaded.before = loaded.job = replace(loaded.job, streams=True)


@lru_cache(maxsize=1024)
def read_policy(text: str) -> RetryPolicy:
    """Read a job's stored retry policy; the same text is read once."""
    told, default = json.loads(text), RetryPolicy()
    return RetryPolicy(
        max_retries=told.get("max_retries", default.max_retries),
        initial_backoff_seconds=told.get(
            "initial_backoff_seconds", default.initial_backoff_seconds
        ),
        max_backoff_seconds=told.get("max_backoff_seconds", default.max_backoff_seconds),
        retryable_codes=tuple(told.get("retryable_codes", ())),
    )
