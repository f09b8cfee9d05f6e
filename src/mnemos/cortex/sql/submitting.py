"""New jobs: those of many submissions are stored together.

Their numbers are taken first, so that nothing has to be asked back from their rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ..notifier import runtime_topic
from ..records import NewJob, Submitted
from ..state_machine import JobState
from .carry_out import ENQUEUE, count_state
from .lanes import Demands, lanes_of
from .log_lines import CREATED
from .many import FLOAT, INT, TEXT, Among, Many, Values
from .transaction import Transaction

_BY_KEYS = Among(
    """
SELECT idempotency_key, job_id, status, request_hash FROM jobs WHERE idempotency_key = ANY(:keys)
""",
    TEXT,
)
_NEXT_SEQS = """
SELECT nextval(pg_get_serial_sequence('jobs', 'seq')) AS seq FROM generate_series(1, :count)
"""
_LAST_SEQ = "SELECT seq FROM sqlite_sequence WHERE name = 'jobs'"
_INSERT_JOBS = Many(
    """
INSERT INTO jobs (seq, job_id, lane_id, status, delayed, job_type, priority, family,
    version, runtime, timeout_seconds, retry_config, min_memory_mb, min_gpu_memory_mb, tags,
    group_name, idempotency_key, request_hash, trace, size_bytes, attempt, retries_used, renewed,
    next_chunk, cancel_requested, submitted_at, available_at, row_count, next_event, key_id)
VALUES (:seq, :job_id, :lane_id, 'pending', FALSE, :job_type, :priority, :family,
    :version, :runtime, :timeout_seconds, :retry_config, :min_memory_mb, :min_gpu_memory_mb, :tags,
    :group_name, :idempotency_key, :request_hash, :trace, :size_bytes, 0, 0, FALSE,
    0, FALSE, :now, :now, :row_count, 1, :key_id)
ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
""",
    seq=INT,
    job_id=TEXT,
    lane_id=INT,
    job_type=TEXT,
    priority=INT,
    family=TEXT,
    version=TEXT,
    runtime=TEXT,
    timeout_seconds=INT,
    retry_config=TEXT,
    min_memory_mb=INT,
    min_gpu_memory_mb=INT,
    tags=TEXT,
    group_name=TEXT,
    idempotency_key=TEXT,
    request_hash=TEXT,
    trace=TEXT,
    size_bytes=INT,
    now=FLOAT,
    row_count=INT,
    key_id=TEXT,
)
_STORED = Among("SELECT seq FROM jobs WHERE seq = ANY(:keys)", INT)
_INSERT_INPUTS = Many(
    """
INSERT INTO job_inputs (job_seq, input, runtime_config, metadata)
VALUES (:seq, :input, :runtime_config, :metadata)
""",
    seq=INT,
    input=TEXT,
    runtime_config=TEXT,
    metadata=TEXT,
)
_FIRST_LINES = Many(
    """
INSERT INTO job_events (job_seq, sequence, kind, data, at)
VALUES (:seq, 0, 'state', :data, :now)
""",
    seq=INT,
    data=TEXT,
    now=FLOAT,
)

Known = dict[str, tuple[str, str, str]]
"""Job, status and request hash, by idempotency key."""


def submit(tx: Transaction, calls: Sequence[Sequence[NewJob]]) -> list[list[Submitted]]:
    """Store jobs; those whose idempotency key is known are given back instead."""
    every = [new for jobs in calls for new in jobs]
    known = _known(tx, every)
    fresh = list(_fresh(every, known))
    created: set[int] = set()
    waiting: Sequence[NewJob] = fresh
    while waiting:
        lost = _insert(tx, waiting)
        created |= {id(new) for new in waiting} - {id(new) for new in lost}
        known.update(_known(tx, lost))
        # A job that was faster with a key may have been pruned already: then the key is free.
        waiting = [new for new in lost if new.idempotency_key not in known]
    for new in fresh:
        if new.idempotency_key is not None and id(new) in created:
            told = (new.job_id, JobState.PENDING.value, new.request_hash)
            known[new.idempotency_key] = told
    return [[_answer(new, created, known, tx.now) for new in jobs] for jobs in calls]


def _known(tx: Transaction, jobs: Iterable[NewJob]) -> Known:
    keys = {new.idempotency_key for new in jobs if new.idempotency_key is not None}
    return {
        row["idempotency_key"]: (row["job_id"], row["status"], row["request_hash"])
        for row in tx.among(_BY_KEYS, keys)
    }


def _fresh(jobs: Iterable[NewJob], known: Known) -> Iterator[NewJob]:
    """The jobs to store: of those with one key, the first."""
    seen = set(known)
    for new in jobs:
        key = new.idempotency_key
        if key is None:
            yield new
        elif key not in seen:
            seen.add(key)
            yield new


def _answer(new: NewJob, created: set[int], known: Known, now: float) -> Submitted:
    if id(new) in created:
        if new.idempotency_key is not None:
            created.remove(id(new))
        return Submitted(new.job_id, JobState.PENDING, created=True, submitted_at=now)
    assert new.idempotency_key is not None
    job_id, status, request_hash = known[new.idempotency_key]
    conflict = None
    if request_hash != new.request_hash:
        conflict = (
            f"The idempotency key {new.idempotency_key!r} was used for another request "
            f"(job {job_id})."
        )
    return Submitted(job_id, JobState(status), created=False, conflict=conflict)


def _insert(tx: Transaction, jobs: Sequence[NewJob]) -> list[NewJob]:
    """Store jobs; return those for whose keys somebody else was a moment faster."""
    if not jobs:
        return []
    lanes = _lanes(tx, jobs)
    placed = list(zip(_next_seqs(tx, len(jobs)), lanes, jobs, strict=True))
    rows = [_row(tx, seq, lane_id, new) for seq, lane_id, new in placed]
    lost: list[NewJob] = []
    if tx.shared and any(new.idempotency_key is not None for new in jobs):
        rows.sort(key=_key)  # whoever stores keys at the same moment does so in this order too
        tx.write(_INSERT_JOBS, rows)
        stored = {row["seq"] for row in tx.among(_STORED, [seq for seq, _, _ in placed])}
        lost = [new for seq, _, new in placed if seq not in stored]
        placed = [one for one in placed if one[0] in stored]
    else:
        tx.write(_INSERT_JOBS, rows)
    inputs = [(seq, new.input, new.runtime_config, new.metadata) for seq, _, new in placed]
    tx.write(_INSERT_INPUTS, inputs)
    tx.write(ENQUEUE, [(seq, lane_id, -new.priority) for seq, lane_id, new in placed])
    tx.write(_FIRST_LINES, [(seq, CREATED, tx.now) for seq, _, _ in placed])
    counts = Counter((lane_id, new.priority, new.group) for _, lane_id, new in placed)
    for place, count in counts.items():
        count_state(tx, JobState.PENDING, count, place)
    tx.topics.update({runtime_topic(new.runtime) for _, _, new in placed})
    return lost


def _key(row: Values) -> str:
    return row[_KEY_PLACE] or ""


def _row(tx: Transaction, seq: int, lane_id: int, new: NewJob) -> Values:
    text = new.input
    size = len(text) if text.isascii() else len(text.encode())
    return (
        *(seq, new.job_id, lane_id, new.job_type, new.priority, new.family, new.version),
        *(new.runtime, new.timeout_seconds, new.retry_config, new.min_memory_mb),
        *(new.min_gpu_memory_mb, _tags(new), new.group, new.idempotency_key, new.request_hash),
        *(new.trace, size + len(new.runtime_config) + len(new.metadata), tx.now, new.row_count),
        new.key_id or None,
    )


_KEY_PLACE = 14


def _next_seqs(tx: Transaction, count: int) -> Sequence[int]:
    if len(tx.numbers) >= count:
        return [tx.numbers.pop() for _ in range(count)]
    if tx.shared:
        return [row["seq"] for row in tx.all(_NEXT_SEQS, {"count": count})]
    last = tx.one(_LAST_SEQ, {})
    first = 1 if last is None else int(last["seq"]) + 1
    return range(first, first + count)


def _tags(new: NewJob) -> str:
    return json.dumps(dict(sorted(new.tags.items()))) if new.tags else "{}"


def _lanes(tx: Transaction, jobs: Iterable[NewJob]) -> list[int]:
    """The lane of each job."""
    demanded = [
        Demands(
            *(new.runtime, new.job_type, new.family, new.version),
            *(new.min_memory_mb, new.min_gpu_memory_mb, _tags(new), False),
            *(new.key_id, new.is_batch),
        )
        for new in jobs
    ]
    lanes = lanes_of(tx, set(demanded))
    return [lanes[demands] for demands in demanded]
