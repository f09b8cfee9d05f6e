"""Carrying out what lease_core decides: for all jobs of an operation, in a few statements.

Which columns a statement names is chosen with care: SQLite rewrites every index that one of them
stands in, and PostgreSQL all indexes of the table unless none of them stands in any (see schema).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from .. import lease_core
from ..lease_core import AttemptEnd, Event, Job, PastAttempt, Step
from ..notifier import DELAYED_TOPIC, group_topic, job_topic, runtime_topic
from ..state_machine import PHASES, TERMINAL, JobState, Outcome, Phase
from .jobs_loaded import LoadedJob
from .log_lines import line_text
from .many import BOOL, FLOAT, INT, TEXT, Many, Values
from .transaction import Transaction

Random = Callable[[], float]
Place = tuple[int, int, str | None]
"""Where a job is counted: its lane, its priority, its group."""

_CLAIMED = Many(
    """
UPDATE jobs SET status = 'acquired', worker_id = :holder, attempt = :number, renewed = FALSE,
    next_chunk = 0, status_message = NULL, started_at = :started, lease_expires_at = :lease,
    deadline_at = :deadline, next_event = :line
WHERE jobs.seq = :seq
""",
    holder=TEXT,
    number=INT,
    started=FLOAT,
    lease=FLOAT,
    deadline=FLOAT,
    line=INT,
    seq=INT,
)
_RENEWED = Many(
    "UPDATE jobs SET lease_expires_at = :lease, renewed = TRUE WHERE jobs.seq = :seq",
    lease=FLOAT,
    seq=INT,
)
_NOTED_COLUMNS = """
    status_message = :message, renewed = :heard, cancel_requested = :cancelled,
    next_chunk = :chunk, size_bytes = size_bytes + :grown, next_event = :line
"""
_NOTED_TYPES = {
    "message": TEXT,
    "heard": BOOL,
    "cancelled": BOOL,
    "chunk": INT,
    "grown": INT,
    "line": INT,
    "seq": INT,
}
_NOTED = Many(
    f"UPDATE jobs SET {_NOTED_COLUMNS} WHERE jobs.seq = :seq",  # noqa: S608  constants only
    **_NOTED_TYPES,
)
_MOVED = Many(
    f"UPDATE jobs SET status = :state, {_NOTED_COLUMNS} WHERE jobs.seq = :seq",  # noqa: S608
    state=TEXT,
    **_NOTED_TYPES,
)
_REQUEUED_COLUMNS = """
    status = 'pending', delayed = :is_delayed, available_at = :available, worker_id = NULL,
    lease_expires_at = NULL, deadline_at = NULL, cancel_requested = FALSE,
    retries_used = :retries, engine_crashes = :deaths, lost_workers = :losses,
    status_message = :message, next_event = :line
"""
_REQUEUED_TYPES = {
    "is_delayed": BOOL,
    "available": FLOAT,
    "retries": INT,
    "deaths": INT,
    "losses": INT,
    "message": TEXT,
    "line": INT,
    "seq": INT,
}
_REQUEUED = Many(
    f"UPDATE jobs SET {_REQUEUED_COLUMNS} WHERE jobs.seq = :seq",  # noqa: S608  constants only
    **_REQUEUED_TYPES,
)
_REVIVED = Many(
    f"""
UPDATE jobs SET finished_at = NULL, error_code = NULL, error = NULL, error_retryable = NULL,
    void_attempts = attempt, {_REQUEUED_COLUMNS}
WHERE jobs.seq = :seq
""",  # noqa: S608  constants only
    **_REQUEUED_TYPES,
)
_ENDED_COLUMNS = """
    status = :state, finished_at = :now, status_message = NULL, error_code = :code,
    error = :sentence, error_retryable = :again, engine_crashes = :deaths,
    lost_workers = :losses, next_event = :line
"""
_ENDED_TYPES = {
    "state": TEXT,
    "now": FLOAT,
    "code": TEXT,
    "sentence": TEXT,
    "again": BOOL,
    "deaths": INT,
    "losses": INT,
    "line": INT,
    "seq": INT,
}
_ENDED = Many(
    f"""
UPDATE jobs SET lease_expires_at = NULL, deadline_at = NULL, {_ENDED_COLUMNS}
WHERE jobs.seq = :seq
""",  # noqa: S608  constants only
    **_ENDED_TYPES,
)
_ENDED_WHILE_PENDING = Many(
    f"""
UPDATE jobs SET delayed = FALSE, worker_id = :holder, {_ENDED_COLUMNS}
WHERE jobs.seq = :seq
""",  # noqa: S608  constants only
    holder=TEXT,
    **_ENDED_TYPES,
)
ENQUEUE = Many(
    "INSERT INTO queue (job_seq, lane_id, rank) VALUES (:seq, :lane, :place)",
    seq=INT,
    lane=INT,
    place=INT,
)
_LEAVE_QUEUE = Many("DELETE FROM queue WHERE queue.job_seq = :seq", seq=INT)
_BEGIN_ATTEMPTS = Many(
    """
INSERT INTO attempts (job_seq, attempt, worker_id, started_at, reported, request_id)
VALUES (:seq, :attempt, :worker_id, :now, FALSE, :request_id)
""",
    seq=INT,
    attempt=INT,
    worker_id=TEXT,
    now=FLOAT,
    request_id=TEXT,
)
_END_ATTEMPTS = Many(
    """
UPDATE attempts SET ended_at = :now, outcome = :how, reported = :said, error_code = :code,
    error = :sentence
WHERE job_seq = :seq AND attempts.attempt = :number
""",
    now=FLOAT,
    how=TEXT,
    said=BOOL,
    code=TEXT,
    sentence=TEXT,
    seq=INT,
    number=INT,
)
_APPEND_LINES = Many(
    """
INSERT INTO job_events (job_seq, sequence, kind, data, at)
VALUES (:seq, :sequence, :kind, :data, :now)
""",
    seq=INT,
    sequence=INT,
    kind=TEXT,
    data=TEXT,
    now=FLOAT,
)
_FORGET_RESULTS = Many("DELETE FROM job_results WHERE job_results.job_seq = :seq", seq=INT)
_FORGET_END = Many("DELETE FROM finished WHERE finished.job_seq = :seq", seq=INT)


class Ledger:
    """The steps of one operation's jobs, in their order; `write` carries them all out.

    Topics and measurements go to the transaction at once.
    """

    def __init__(self, tx: Transaction, random: Random = lambda: 0.0) -> None:
        self.tx = tx
        self._random = random
        self._changed: dict[int, LoadedJob] = {}
        self._lines: list[Values] = []
        self._begun: list[Values] = []
        self._attempt_ends: list[Values] = []
        self._forgotten: list[Values] = []
        self._moves: Counter[tuple[JobState, JobState, Place]] = Counter()

    def step(self, loaded: LoadedJob, event: Event) -> Step:
        """Let an event happen to a job."""
        step = self.foresee(loaded, event)
        holder = loaded.job.worker_id or step.job.worker_id
        if step.job is not loaded.job:
            self._become(loaded, step.job)
        for line in step.lines:
            self.log(loaded, *line_text(line))
        if step.ended is not None:
            self._end_attempt(loaded, step.ended, holder or "")
        if step.forgets:
            self._forgotten.append((loaded.seq,))
        return step

    def foresee(self, loaded: LoadedJob, event: Event) -> Step:
        """Say what an event would do to a job."""
        return lease_core.step(loaded.job, event, now=self.tx.now, random=self._random)

    def log(self, loaded: LoadedJob, kind: str, data: str) -> None:
        """Add a line to a job's log; its numbers have no gaps."""
        self._lines.append((loaded.seq, loaded.next_event, kind, data, self.tx.now))
        loaded.next_event += 1
        self._changed[loaded.seq] = loaded
        self.tx.topics.add(job_topic(loaded.job_id))

    def _become(self, loaded: LoadedJob, job: Job) -> None:
        was, loaded.job = loaded.job, job
        self._changed[loaded.seq] = loaded
        if job.state is was.state:
            return
        place = loaded.lane_id, loaded.priority, loaded.group
        self._moves[was.state, job.state, place] += 1
        if loaded.delayed:
            loaded.delayed = False
            self.tx.count("queue", "delayed", -1)
        if job.state is JobState.PENDING:
            self._queue(loaded)
            if was.state in TERMINAL:
                self.tx.finished[loaded.seq] = None
        elif job.state is JobState.ACQUIRED:
            self._begin(loaded)
        elif job.state in TERMINAL:
            self._finish(loaded)

    def _queue(self, loaded: LoadedJob) -> None:
        if loaded.job.available_at > self.tx.now:
            loaded.delayed = True
            self.tx.count("queue", "delayed", +1)
            self.tx.topics.add(DELAYED_TOPIC)
        else:
            self.tx.topics.add(runtime_topic(loaded.runtime))

    def _begin(self, loaded: LoadedJob) -> None:
        job, now = loaded.job, self.tx.now
        self._begun.append((loaded.seq, job.attempt, job.worker_id, now, loaded.request_id))
        if loaded.started_at is None:
            loaded.started_at = now
            self.tx.measured.waits.append(max(0.0, now - loaded.submitted_at))

    def _finish(self, loaded: LoadedJob) -> None:
        if loaded.group is not None:
            self.tx.finished[loaded.seq] = loaded.group
        measured = self.tx.measured
        measured.ended[loaded.job.state.value] += 1
        measured.attempts.append(loaded.job.attempt)
        if loaded.started_at is not None:
            measured.durations.append(max(0.0, self.tx.now - loaded.started_at))

    def _end_attempt(self, loaded: LoadedJob, end: AttemptEnd, holder: str) -> None:
        attempt = loaded.job.attempt
        how = end.outcome.value
        row = (self.tx.now, how, end.reported, end.error_code, end.error, loaded.seq, attempt)
        self._attempt_ends.append(row)
        loaded.pasts[attempt] = PastAttempt(holder, end.outcome, end.reported)
        if end.outcome is Outcome.LOST:
            self.tx.count("total", "leases_expired", +1)
            self.tx.measured.leases_expired += 1

    def write(self) -> None:
        """Write what the jobs have become; called once, last."""
        for (source, target, place), jobs in self._moves.items():
            count_state(self.tx, source, -jobs, place)
            count_state(self.tx, target, +jobs, place)
        rows: defaultdict[Many, list[Values]] = defaultdict(list)
        for loaded in self._changed.values():
            statement, row = _change(loaded, self.tx.now)
            rows[statement].append(row)
            for table, told in _other_rows(loaded):
                rows[table].append(told)
        for statement, some in rows.items():
            self.tx.write(statement, some)
        self.tx.write(_BEGIN_ATTEMPTS, self._begun)
        self.tx.write(_END_ATTEMPTS, self._attempt_ends)
        self.tx.write(_FORGET_RESULTS, self._forgotten)
        self.tx.write(_APPEND_LINES, self._lines)


def _change(loaded: LoadedJob, now: float) -> tuple[Many, Values]:
    """The narrowest statement that makes of a job's row what the job has become.

    One is enough, since an operation does one kind of thing.
    """
    before, job = loaded.before, loaded.job
    if job.state is before.state:
        if job.lease_expires_at != before.lease_expires_at:
            return _RENEWED, (job.lease_expires_at, loaded.seq)
        return _NOTED, _noted(loaded)
    if job.state in TERMINAL:
        return _ended(loaded, now)
    if job.state is JobState.PENDING:
        return _requeued(loaded)
    if before.state is JobState.PENDING:
        return _claimed(loaded)
    return _MOVED, (job.state.value, *_noted(loaded))


def _other_rows(loaded: LoadedJob) -> Iterator[tuple[Many, Values]]:
    """What keeps `queue` and `finished` in step with a job."""
    was, now = loaded.before.state, loaded.job.state
    if was is now:
        return
    if was is JobState.PENDING:
        yield _LEAVE_QUEUE, (loaded.seq,)
    elif now is JobState.PENDING:
        yield ENQUEUE, (loaded.seq, None if loaded.delayed else loaded.lane_id, -loaded.priority)
        if was in TERMINAL:
            yield _FORGET_END, (loaded.seq,)


def _claimed(loaded: LoadedJob) -> tuple[Many, Values]:
    job = loaded.job
    row = (
        *(job.worker_id, job.attempt, loaded.started_at, job.lease_expires_at),
        *(job.deadline_at, loaded.next_event, loaded.seq),
    )
    return _CLAIMED, row


def _requeued(loaded: LoadedJob) -> tuple[Many, Values]:
    job = loaded.job
    row = (
        *(loaded.delayed, job.available_at, job.retries_used, job.engine_crashes),
        *(job.lost_workers, job.status_message, loaded.next_event, loaded.seq),
    )
    return _REQUEUED if loaded.before.is_held else _REVIVED, row


def _ended(loaded: LoadedJob, now: float) -> tuple[Many, Values]:
    job = loaded.job
    row = (
        *(job.state.value, now, job.error_code, job.error, job.error_retryable),
        *(job.engine_crashes, job.lost_workers, loaded.next_event, loaded.seq),
    )
    if loaded.before.is_held:
        return _ENDED, row
    return _ENDED_WHILE_PENDING, (job.worker_id, *row)


def _noted(loaded: LoadedJob) -> Values:
    job = loaded.job
    return (
        *(job.status_message, job.renewed, job.cancel_requested, job.next_chunk),
        *(loaded.bytes_grown, loaded.next_event, loaded.seq),
    )


def count_state(tx: Transaction, state: JobState, change: int, place: Place) -> None:
    """Change the tallies of a state."""
    lane_id, priority, group = place
    phase = PHASES[state]
    tx.count("status", state.value, change)
    if phase is not Phase.FINISHED:
        tx.count(f"lane/{lane_id}/{priority}", phase.value, change)
    if group is not None:
        tx.count(f"group/{group}", phase.value, change)
        tx.topics.add(group_topic(group))
