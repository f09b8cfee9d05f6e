"""What is kept no longer: logs of jobs that ended long ago, and in the end the jobs themselves.

What may go is looked for beside the writer, which takes it away a little at a time. A log goes at
once for its readers (`jobs.pruned_lines` says before which line nothing can be read), and line by
line from the disk. It is found by its own key, a job by its status, so no other index is needed.
Several replicas may do this at once: each passes over rows that another one holds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..big_results import REFERENCE_PREFIX
from ..records import OldJobs, PrunedStep
from ..state_machine import Phase
from .carry_out import Ledger
from .engine import LOCK_FREE, Connection
from .jobs_loaded import LoadedJob
from .log_lines import restart_text
from .many import INT, Among
from .transaction import Row, Transaction

JOBS_PER_STEP = 200
LINES_PER_STEP = 4000
BYTES_PER_STEP = 16 * 1024 * 1024
LOOKED_AT_PER_STEP = 1000
ALL_LINES = 2**62

# The smallest number greater than the last one, again and again: the cost is that of the jobs
# which have a log, however long their logs are.
_LOGGED = """
WITH RECURSIVE logged (seq, number) AS (
    SELECT MIN(job_seq), 1 FROM job_events WHERE job_seq > :after
    UNION ALL
    SELECT (SELECT MIN(job_seq) FROM job_events WHERE job_seq > logged.seq), number + 1
    FROM logged WHERE logged.seq IS NOT NULL AND number < :limit
)
SELECT jobs.seq, jobs.submitted_at, jobs.finished_at,
    (SELECT MIN(sequence) FROM job_events WHERE job_seq = jobs.seq) AS first_line,
    (SELECT MAX(sequence) FROM job_events WHERE job_seq = jobs.seq) AS last_line
FROM logged CROSS JOIN jobs WHERE jobs.seq = logged.seq ORDER BY logged.seq
"""
_NEXT = """
SELECT seq, submitted_at, finished_at, size_bytes FROM jobs
WHERE seq > :after ORDER BY seq LIMIT :limit
"""
_STORED = Among(
    f"""
SELECT jobs.job_id, jobs.seq FROM job_results CROSS JOIN jobs
WHERE job_results.job_seq = ANY(:keys) AND jobs.seq = job_results.job_seq
    AND substr(result, 1, {len(REFERENCE_PREFIX)}) = '{REFERENCE_PREFIX}'
""",  # noqa: S608  constants only
    INT,
)
_CLOSE_LOGS = Among(
    f"""
UPDATE jobs SET pruned_lines = next_event WHERE seq IN (
    SELECT seq FROM jobs WHERE seq = ANY(:keys) AND finished_at <= :before
    ORDER BY seq {LOCK_FREE}
) RETURNING seq
""",  # noqa: S608  constants only
    INT,
)
_DELETE_LINES = Among(
    """
DELETE FROM job_events WHERE job_seq = ANY(:keys) AND sequence < :until RETURNING job_seq
""",
    INT,
)
_HOLD_JOBS = Among(
    f"""
SELECT seq, status, group_name FROM jobs
WHERE seq = ANY(:keys) AND finished_at <= :before
    AND NOT EXISTS (SELECT 1 FROM job_events WHERE job_seq = jobs.seq)
ORDER BY seq {LOCK_FREE}
""",  # noqa: S608  constants only
    INT,
)
_DELETE_WITH_JOBS = [
    Among(f"DELETE FROM {table} WHERE job_seq = ANY(:keys) RETURNING job_seq", INT)  # noqa: S608
    for table in ("attempts", "job_inputs", "job_results", "finished")
]
_DELETE_JOBS = Among("DELETE FROM jobs WHERE seq = ANY(:keys) RETURNING seq", INT)
_FORGET_GROUP = f"""
DELETE FROM tallies WHERE scope = :scope AND name IN (
    SELECT name FROM tallies WHERE scope = :scope AND value = 0 {LOCK_FREE}
) AND value = 0
"""  # noqa: S608  constants only


@dataclass(frozen=True, slots=True)
class Due:
    """Which logs may go in one step, and where to look on: None when all was looked at."""

    seqs: Sequence[int]
    before: float
    """They ended by then."""
    until_line: int = ALL_LINES
    next_seq: int | None = None


def find_logs(connection: Connection, before: float, after_seq: int) -> Due:
    """Return jobs that ended `before` and have a log, and up to which line it may go."""
    told = {"after": after_seq, "limit": LOOKED_AT_PER_STEP}
    rows = connection.execute(_LOGGED, told).fetchall()
    if _all_too_young(rows, before):
        return Due([], before)
    seqs: list[int] = []
    room = LINES_PER_STEP
    position = after_seq
    for row in rows:
        if row["finished_at"] is not None and row["finished_at"] <= before:
            lines = row["last_line"] - row["first_line"] + 1
            if lines > room and not seqs:
                return Due([row["seq"]], before, row["first_line"] + room, position)
            if lines > room or len(seqs) == JOBS_PER_STEP:
                return Due(seqs, before, next_seq=position)
            seqs.append(row["seq"])
            room -= lines
        position = row["seq"]
    return Due(seqs, before, next_seq=_look_on(rows, position))


def prune_logs(tx: Transaction, due: Due) -> PrunedStep:
    """Close the logs that were found and are still due, and take their lines away."""
    held = _numbers(tx.among(_CLOSE_LOGS, due.seqs, before=due.before))
    tx.among(_DELETE_LINES, held, until=due.until_line)
    return PrunedStep(jobs=len(held), next_seq=due.next_seq)


def find_jobs(connection: Connection, before: float, after_seq: int) -> OldJobs:
    """Return jobs that ended `before`."""
    seqs, next_seq = _old_jobs(connection, before, after_seq)
    stored = connection.among(_STORED, seqs, {}).fetchall() if seqs else []
    return OldJobs(seqs, before, next_seq, {row["job_id"]: row["seq"] for row in stored})


def _old_jobs(
    connection: Connection, before: float, after_seq: int
) -> tuple[list[int], int | None]:
    """Their numbers, and where to look on."""
    told = {"after": after_seq, "limit": LOOKED_AT_PER_STEP}
    rows = connection.execute(_NEXT, told).fetchall()
    if _all_too_young(rows, before):
        return [], None
    seqs: list[int] = []
    room = BYTES_PER_STEP
    position = after_seq
    for row in rows:
        if row["finished_at"] is not None and row["finished_at"] <= before:
            if len(seqs) == JOBS_PER_STEP or (seqs and row["size_bytes"] > room):
                return seqs, position
            seqs.append(row["seq"])
            room -= row["size_bytes"]
        position = row["seq"]
    return seqs, _look_on(rows, position)


def _all_too_young(rows: Sequence[Row], before: float) -> bool:
    """Whether none was submitted `before`: whatever comes behind them was not either.

    One is not enough to say so, since somebody may have set a clock.
    """
    return all(row["submitted_at"] > before for row in rows)


def _look_on(rows: Sequence[Row], position: int) -> int | None:
    return position if len(rows) == LOOKED_AT_PER_STEP else None


def prune_jobs(tx: Transaction, old: OldJobs) -> PrunedStep:
    """Take away the jobs that were found, are still due and have no log any more."""
    held = tx.among(_HOLD_JOBS, old.seqs, before=old.ended_before)
    groups: set[str] = set()
    for job in held:
        tx.count("status", job["status"], -1)
        if job["group_name"] is not None:
            tx.count(f"group/{job['group_name']}", Phase.FINISHED.value, -1)
            groups.add(job["group_name"])
    for statement in (*_DELETE_WITH_JOBS, _DELETE_JOBS):
        tx.among(statement, _numbers(held))
    return PrunedStep(jobs=len(held), next_seq=old.next_seq, groups=groups)


def forget_groups(tx: Transaction, groups: Collection[str]) -> None:
    """Drop the counts of groups that have no job any more."""
    for group in sorted(groups):
        tx.run(_FORGET_GROUP, {"scope": f"group/{group}"})


def reopen_log(ledger: Ledger, loaded: LoadedJob) -> None:
    """Before a job goes on whose log is gone: its next line says that what came before is void."""
    if 0 < loaded.row["pruned_lines"] == loaded.next_event:
        reason = "the log before this is kept no longer"
        ledger.log(loaded, "restart", restart_text(loaded.job.attempt + 1, reason))


def _numbers(rows: Sequence[Row]) -> list[int]:
    return [row["seq"] for row in rows]
