"""What is read and shown: jobs, lists, logs, groups, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, select
from sqlalchemy.dialects.sqlite import dialect as SqliteDialect

from ..errors import JobNotFoundError, LogPrunedError
from ..numbers import LaneCount, QueueNumbers, Totals
from ..records import (
    AttemptRecord,
    EventPage,
    EventRecord,
    GroupCounts,
    JobFilter,
    JobRecord,
    ModelKey,
)
from ..state_machine import ACTIVE, RETRYABLE_BY_HAND, TERMINAL, JobState
from ..store import MAX_PAGE_BYTES
from .engine import Connection, Row, fields_of
from .jobs_loaded import STATES
from .schema import attempts, finished, job_inputs, job_results, jobs, queue

MAX_EVENTS_BYTES = 1024 * 1024

_DIALECT = SqliteDialect(paramstyle="named")
_TERMINAL_WORDS = {state.value for state in TERMINAL}

_SLIM = select(jobs, job_inputs.c.runtime_config, job_inputs.c.metadata)
_SLIM = _SLIM.join(job_inputs, job_inputs.c.job_seq == jobs.c.seq)
_FULL = _SLIM.add_columns(
    job_inputs.c.input,
    job_results.c.result,
    job_results.c.output_metadata,
    job_results.c.metrics,
).outerjoin(job_results, job_results.c.job_seq == jobs.c.seq)
_NUMBERED = _FULL.add_columns(finished.c.finish_seq)

_FIND = "SELECT seq, status, pruned_lines FROM jobs WHERE job_id = :job_id"
_ATTEMPTS = """
SELECT attempts.attempt, attempts.worker_id, attempts.started_at, attempts.ended_at,
    attempts.outcome, attempts.error_code, attempts.error
FROM attempts JOIN jobs ON jobs.seq = attempts.job_seq
WHERE jobs.job_id = :job_id ORDER BY attempts.attempt
"""
_EVENTS = """
SELECT sequence, kind, data FROM job_events
WHERE job_seq = :seq AND sequence >= :from_sequence ORDER BY sequence LIMIT :limit
"""
_GOES_ON = "SELECT 1 FROM job_events WHERE job_seq = :seq AND sequence >= :first LIMIT 1"
_TALLY = "SELECT name, value FROM tallies WHERE scope = :scope"
_LANES = """
SELECT tallies.scope, tallies.name, tallies.value FROM tallies
WHERE tallies.scope >= 'lane/' AND tallies.scope < 'lane0' AND tallies.value > 0
"""
_LANE = """
SELECT family, version, runtime, job_type, min_memory_mb, min_gpu_memory_mb, tags,
    (SELECT jobs.submitted_at FROM queue CROSS JOIN jobs
     WHERE queue.lane_id = lanes.lane_id AND queue.rank = :rank AND jobs.seq = queue.job_seq
     ORDER BY queue.rank, queue.job_seq LIMIT 1) AS first_submitted_at
FROM lanes WHERE lane_id = :lane_id
"""
_OLDEST = """
SELECT jobs.submitted_at FROM queue CROSS JOIN jobs WHERE jobs.seq = queue.job_seq
ORDER BY queue.job_seq LIMIT 1
"""
_WAITING_OF = """
SELECT COALESCE(SUM(tallies.value), 0) AS jobs FROM lanes JOIN tallies
    ON tallies.scope >= 'lane/' || lanes.lane_id || '/'
    AND tallies.scope < 'lane/' || lanes.lane_id || '0'
WHERE lanes.key_id = :key_id AND tallies.name = 'pending'
"""
_WORKERS = "SELECT lost, desired_state, status, COUNT(*) AS n FROM workers GROUP BY 1, 2, 3"


def _compile(statement: Select[Any]) -> tuple[str, dict[str, Any]]:
    compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    return str(compiled), dict(compiled.params)


_GET, _ = _compile(
    _NUMBERED.outerjoin(finished, finished.c.job_seq == jobs.c.seq).where(jobs.c.job_id == "?")
)
_GET_PARAMETER = next(iter(_))

# The page is cut before anything is joined, whatever a planner without statistics believes.
_page_of_group = (
    select(finished.c.job_seq, finished.c.finish_seq)
    .where(finished.c.group_name == bindparam("group"), finished.c.finish_seq > bindparam("after"))
    .order_by(finished.c.finish_seq)
    .limit(bindparam("limit"))
    .subquery("page")
)
_GROUP_RESULTS, _GROUP_PARAMETERS = _compile(
    _FULL.add_columns(_page_of_group.c.finish_seq)
    .join(_page_of_group, _page_of_group.c.job_seq == jobs.c.seq)
    .order_by(_page_of_group.c.finish_seq)
)


_NAMES = tuple(JobRecord.__dataclass_fields__)
_LEFT_OUT: Mapping[str, Any] = dict.fromkeys(_NAMES)
_values_of = itemgetter(*_NAMES)


def job_from_row(row: Row) -> JobRecord:
    """Build a record from the columns of `jobs` and whatever payload was selected with them."""
    fields = {**_LEFT_OUT, **fields_of(row)}
    fields["group"] = fields["group_name"]
    fields["key_id"] = fields["key_id"] or ""
    fields["status"] = STATES[fields["status"]]
    fields["cancel_requested"] = bool(fields["cancel_requested"])
    fields["delayed"] = bool(fields["delayed"])
    retryable = fields["error_retryable"]
    fields["error_retryable"] = None if retryable is None else bool(retryable)
    return JobRecord(**dict(zip(_NAMES, _values_of(fields), strict=True)))


def get_job(connection: Connection, job_id: str) -> JobRecord:
    """Return a job with its payload. Raises JobNotFoundError."""
    row = connection.execute(_GET, {_GET_PARAMETER: job_id}).fetchone()
    if row is None:
        raise JobNotFoundError(job_id)
    return job_from_row(row)


def get_attempts(connection: Connection, job_id: str) -> list[AttemptRecord]:
    """Return the history of a job, oldest attempt first."""
    rows = connection.execute(_ATTEMPTS, {"job_id": job_id})
    return [AttemptRecord(**fields_of(row)) for row in rows]


def list_jobs(connection: Connection, query: JobFilter) -> list[JobRecord]:
    """Return jobs, newest first."""
    statement, seq = _of_statuses(_FULL if query.full else _SLIM, frozenset(query.statuses))
    equal = {
        jobs.c.family: query.family,
        jobs.c.version: query.version,
        jobs.c.worker_id: query.worker_id,
        jobs.c.group_name: query.group,
        jobs.c.job_type: query.job_type,
        jobs.c.error_code: query.error_code,
        jobs.c.key_id: query.key_id,
    }
    for column, value in equal.items():
        if value is not None:
            statement = statement.where(column == value)
    if query.submitted_after is not None:
        statement = statement.where(jobs.c.submitted_at > query.submitted_after)
    if query.submitted_before is not None:
        statement = statement.where(jobs.c.submitted_at < query.submitted_before)
    if query.before_seq is not None:
        statement = statement.where(seq < query.before_seq)
    text, parameters = _compile(statement.order_by(seq.desc()).limit(query.limit))
    return _page(connection.execute(text, parameters))


def _of_statuses(
    statement: Select[Any], statuses: frozenset[JobState]
) -> tuple[Select[Any], ColumnElement[int]]:
    """Demand one of some statuses, if any; and say which column tells the jobs' order.

    What waits, runs or ended badly is found by itself, however many jobs ended well.
    """
    if not statuses:
        return statement, jobs.c.seq
    statement = statement.where(jobs.c.status.in_([state.value for state in statuses]))
    if statuses == {JobState.PENDING}:
        return statement.join(queue, queue.c.job_seq == jobs.c.seq), queue.c.job_seq
    if statuses <= ACTIVE:
        held = (attempts.c.job_seq == jobs.c.seq) & attempts.c.ended_at.is_(None)
        return statement.join(attempts, held), attempts.c.job_seq
    if statuses <= RETRYABLE_BY_HAND:
        statement = statement.where(jobs.c.error_code.is_not(None))
    return statement, jobs.c.seq


def _page(rows: Iterable[Row]) -> list[JobRecord]:
    """Read jobs until they are many enough for one answer."""
    page: list[JobRecord] = []
    room = MAX_PAGE_BYTES
    for row in rows:
        page.append(job_from_row(row))
        room -= page[-1].payload_bytes
        if room <= 0:
            break
    return page


def read_events(connection: Connection, job_id: str, from_sequence: int, limit: int) -> EventPage:
    """Return a page of a job's log. Raises JobNotFoundError, LogPrunedError."""
    job = connection.execute(_FIND, {"job_id": job_id}).fetchone()
    if job is None:
        raise JobNotFoundError(job_id)
    first = job["pruned_lines"]
    if from_sequence < first:
        if connection.execute(_GOES_ON, {"seq": job["seq"], "first": first}).fetchone() is None:
            raise LogPrunedError(job_id)
        from_sequence = first
    wanted = {"seq": job["seq"], "from_sequence": from_sequence, "limit": limit}
    rows = connection.execute(_EVENTS, wanted)
    events: list[EventRecord] = []
    room = MAX_EVENTS_BYTES
    for row in rows:
        events.append(EventRecord(row["sequence"], row["kind"], row["data"]))
        room -= len(row["data"])
        if room <= 0:
            break
    return EventPage(events, job["status"] in _TERMINAL_WORDS)


def group_results(connection: Connection, group: str, after: int, limit: int) -> list[JobRecord]:
    """Return finished jobs of a group in finishing order."""
    wanted = {**_GROUP_PARAMETERS, "group": group, "after": after, "limit": limit}
    return _page(connection.execute(_GROUP_RESULTS, wanted))


def group_counts(connection: Connection, group: str) -> GroupCounts:
    """Say how a group stands."""
    told = _tally(connection, f"group/{group}")
    pending, running = told.get("pending", 0), told.get("running", 0)
    finished = told.get("finished", 0)
    return GroupCounts(pending + running + finished, pending, running, finished)


def queue_numbers(connection: Connection, now: float) -> QueueNumbers:
    """Return the queue's numbers; what it costs does not depend on the backlog."""
    counts: dict[tuple[int, int], dict[str, int]] = {}
    for row in connection.execute(_LANES):
        _, lane_id, priority = row["scope"].split("/")
        counts.setdefault((int(lane_id), int(priority)), {})[row["name"]] = row["value"]
    lanes = []
    for (lane_id, priority), phases in counts.items():
        row = connection.execute(_LANE, {"lane_id": lane_id, "rank": -priority}).fetchone()
        first = row["first_submitted_at"]
        lane = LaneCount(
            model=ModelKey(row["family"], row["version"], row["runtime"]),
            priority=priority,
            pending=phases.get("pending", 0),
            running=phases.get("running", 0),
            job_type=row["job_type"],
            min_memory_mb=row["min_memory_mb"],
            min_gpu_memory_mb=row["min_gpu_memory_mb"],
            tags=row["tags"],
            waited_seconds=None if first is None else max(0.0, now - first),
        )
        lanes.append(lane)
    oldest = connection.execute(_OLDEST).fetchone()
    waited = 0.0 if oldest is None else max(0.0, now - oldest["submitted_at"])
    delayed = _tally(connection, "queue").get("delayed", 0)
    return QueueNumbers(lanes, delayed, waited)


def waiting_of(connection: Connection, key_id: str, most: int) -> int:
    """Count the jobs that wait and were submitted with a key, delayed ones too, up to `most`.

    What it costs does not depend on the backlog, but on how many lanes the key ever used.
    """
    row = connection.execute(_WAITING_OF, {"key_id": key_id}).fetchone()
    return min(most, int(row["jobs"]))


def totals(connection: Connection) -> Totals:
    """Return counts over everything stored."""
    told = _tally(connection, "status")
    by_status = {state.value: told.get(state.value, 0) for state in JobState}
    workers: dict[str, int] = {}
    for row in connection.execute(_WORKERS):
        paused = row["desired_state"] == "paused" and row["status"] in {"idle", "busy"}
        shown = "lost" if row["lost"] else "paused" if paused else row["status"]
        workers[shown] = workers.get(shown, 0) + row["n"]
    overall = _tally(connection, "total")
    return Totals(by_status, workers, overall.get("tokens", 0), overall.get("leases_expired", 0))


def _tally(connection: Connection, scope: str) -> dict[str, int]:
    return {row["name"]: row["value"] for row in connection.execute(_TALLY, {"scope": scope})}
