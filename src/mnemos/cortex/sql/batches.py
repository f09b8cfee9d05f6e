"""Batches, who drives them, the lines of theirs that became no job, and those that have ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from ..batches.records import OPEN, Batch, BatchState, EndedLines, Fault, LineError, Progress
from ..notifier import BATCHES_TOPIC, group_topic
from ..records import JobRecord
from ..store import MAX_PAGE_BYTES
from . import deliveries
from .engine import LOCK_FREE, Connection, Row, fields_of
from .many import INT, TEXT, Many
from .queries import job_from_row
from .transaction import Transaction

_OPEN = ", ".join(f"'{state.value}'" for state in sorted(OPEN))
_ADD = """
INSERT INTO batches (batch_id, endpoint, input_file_id, output_file_id, error_file_id, metadata,
    created_at, expires_at, state, progress, owner, owned_until, key_id, retry_of, output_seconds,
    webhooks)
VALUES (:batch_id, :endpoint, :input_file_id, :output_file_id, :error_file_id, :metadata,
    :created_at, :expires_at, :state, :progress, '', 0, :key_id, :retry_of, :output_seconds,
    :webhooks)
"""
_GET = "SELECT * FROM batches WHERE batch_id = :batch_id"
_OF_FILE = "SELECT * FROM batches WHERE output_file_id = :file_id OR error_file_id = :file_id"
_READS = f"""
SELECT 1 FROM batches WHERE input_file_id = :file_id AND state IN ({_OPEN}) LIMIT 1
"""  # noqa: S608  constants only
_LIST = """
SELECT * FROM batches
WHERE (:after = '' OR seq < (SELECT seq FROM batches WHERE batch_id = :after))
    AND (:everybody OR key_id = :key_id)
ORDER BY seq DESC LIMIT :limit
"""
_CANCEL = f"""
UPDATE batches SET cancelling_at = :now
WHERE batch_id = :batch_id AND cancelling_at IS NULL AND state IN ({_OPEN}) RETURNING batch_id
"""  # noqa: S608  constants only
_FREE = f"""
SELECT * FROM batches WHERE state IN ({_OPEN}) AND owned_until < :now
ORDER BY seq LIMIT 1 {LOCK_FREE}
"""  # noqa: S608
_OWN = """
UPDATE batches SET owner = :owner, owned_until = :until WHERE batch_id = :batch_id
"""
_KEEP = """
UPDATE batches SET owned_until = :until WHERE batch_id = :batch_id AND owner = :owner
RETURNING batch_id
"""
_LEAVE = """
UPDATE batches SET owned_until = 0, owner = ''
WHERE owner <> '' AND (:everybody OR owner = :owner) RETURNING batch_id
"""
_SAVE = """
UPDATE batches SET state = :state, progress = :progress
WHERE batch_id = :batch_id AND owner = :owner RETURNING webhooks
"""
_ADD_FAULT = Many(
    """
INSERT INTO batch_faults (batch_id, line, custom_id, status, error)
VALUES (:batch_id, :line, :custom_id, :status, :error) ON CONFLICT (batch_id, line) DO NOTHING
""",
    batch_id=TEXT,
    line=INT,
    custom_id=TEXT,
    status=INT,
    error=TEXT,
)
_FAULTS = """
SELECT line, custom_id, status, error FROM batch_faults
WHERE batch_id = :batch_id AND line > :after ORDER BY line LIMIT :limit
"""
_ENDED = """
SELECT jobs.*, job_inputs.runtime_config, job_inputs.metadata, job_inputs.input,
    job_results.result, job_results.output_metadata, job_results.metrics, page.finish_seq
FROM (
    SELECT finished.job_seq, finished.finish_seq FROM finished
    JOIN jobs ON jobs.seq = finished.job_seq
    WHERE finished.group_name = :batch_id AND finished.finish_seq > :after
        AND (jobs.status = 'completed') = :completed
    ORDER BY finished.finish_seq LIMIT :limit
) AS page
JOIN jobs ON jobs.seq = page.job_seq
JOIN job_inputs ON job_inputs.job_seq = jobs.seq
LEFT JOIN job_results ON job_results.job_seq = jobs.seq
ORDER BY page.finish_seq
"""
_COUNT = """
SELECT COALESCE(SUM(CASE WHEN jobs.status = 'completed' THEN 1 ELSE 0 END), 0) AS completed,
    COUNT(*) AS ended, MAX(finished.finish_seq) AS position
FROM finished JOIN jobs ON jobs.seq = finished.job_seq
WHERE finished.group_name = :batch_id AND finished.finish_seq > :after
"""
_ALL_ENDED = "SELECT value FROM tallies WHERE scope = :scope AND name = 'finished'"


def add(tx: Transaction, batch: Batch) -> None:
    """Store a new batch."""
    columns = "batch_id endpoint input_file_id output_file_id error_file_id created_at expires_at"
    columns += " key_id retry_of output_seconds"
    values = {name: getattr(batch, name) for name in columns.split()}
    values["state"] = batch.state.value
    values["metadata"] = json.dumps(dict(batch.metadata))
    values["progress"] = _progress_text(batch.progress)
    values["webhooks"] = json.dumps(batch.webhooks)
    tx.run(_ADD, values)
    tx.topics.add(BATCHES_TOPIC)


def get(db: Connection, batch_id: str) -> Batch | None:
    """Return a batch."""
    row = db.execute(_GET, {"batch_id": batch_id}).fetchone()
    return None if row is None else _batch(row)


def of_file(db: Connection, file_id: str) -> Batch | None:
    """Return the batch that a file is of."""
    row = db.execute(_OF_FILE, {"file_id": file_id}).fetchone()
    return None if row is None else _batch(row)


def is_read(db: Connection, file_id: str) -> bool:
    """Say whether an open batch reads a file."""
    return db.execute(_READS, {"file_id": file_id}).fetchone() is not None


def page(db: Connection, after: str | None, limit: int, key_id: str | None) -> list[Batch]:
    """Return batches, newest first."""
    whose = {"everybody": key_id is None, "key_id": key_id or ""}
    rows = db.execute(_LIST, {"after": after or "", "limit": limit, **whose})
    return [_batch(row) for row in rows]


def cancel(tx: Transaction, batch_id: str) -> None:
    """Let an open batch stop."""
    if tx.one(_CANCEL, {"batch_id": batch_id, "now": tx.now}) is not None:
        tx.topics |= {BATCHES_TOPIC, group_topic(batch_id)}


def own(tx: Transaction, owner: str, seconds: float) -> Batch | None:
    """Give an open batch that nobody has to `owner`."""
    row = tx.one(_FREE, {"now": tx.now})
    if row is None:
        return None
    batch = _batch(row)
    tx.run(_OWN, {"owner": owner, "until": tx.now + seconds, "batch_id": batch.batch_id})
    return batch


def keep(tx: Transaction, batch_id: str, owner: str, seconds: float) -> bool:
    """Extend an ownership."""
    wanted = {"batch_id": batch_id, "owner": owner, "until": tx.now + seconds}
    return tx.one(_KEEP, wanted) is not None


def leave(tx: Transaction, owner: str | None) -> None:
    """End all ownerships of `owner`, or of everybody."""
    if tx.all(_LEAVE, {"owner": owner or "", "everybody": owner is None}):
        tx.topics.add(BATCHES_TOPIC)


def save(tx: Transaction, batch_id: str, owner: str, state: BatchState, progress: Progress) -> bool:
    """Write how far a batch is, if it is owned; where it ends by this, note who is told."""
    wanted = {"batch_id": batch_id, "owner": owner, "state": state.value}
    row = tx.one(_SAVE, {**wanted, "progress": _progress_text(progress)})
    if row is None:
        return False
    if state not in OPEN:
        name = batch_id.removeprefix("batch_")
        deliveries.add(tx, f"evt_{name}", f"batch.{state.value}", batch_id, _names(row))
    return True


def add_faults(tx: Transaction, batch_id: str, faults: Sequence[Fault]) -> None:
    """Keep faults, each once."""
    rows = [(batch_id, one.line, one.custom_id, one.status, one.error) for one in faults]
    tx.write(_ADD_FAULT, rows)


def faults(db: Connection, batch_id: str, after_line: int, limit: int) -> list[Fault]:
    """Return faults in order."""
    wanted = {"batch_id": batch_id, "after": after_line, "limit": limit}
    return [Fault(**fields_of(row)) for row in db.execute(_FAULTS, wanted)]


def ended_jobs(
    db: Connection, batch_id: str, after: int, limit: int, *, completed: bool
) -> list[JobRecord]:
    """Return jobs that completed, or that did not, in finishing order."""
    wanted = {"batch_id": batch_id, "after": after, "limit": limit, "completed": completed}
    page: list[JobRecord] = []
    room = MAX_PAGE_BYTES
    for row in db.execute(_ENDED, wanted):
        page.append(job_from_row(row))
        room -= page[-1].payload_bytes
        if room <= 0:
            break
    return page


def count_ended(db: Connection, batch_id: str, known: EndedLines) -> EndedLines:
    """Count on from what is known; all anew where a job that had ended goes on."""
    counted = _count_on(db, batch_id, known)
    row = db.execute(_ALL_ENDED, {"scope": f"group/{batch_id}"}).fetchone()
    ended = 0 if row is None else row["value"]
    if counted.completed + counted.failed == ended:
        return counted
    return _count_on(db, batch_id, EndedLines())


def _count_on(db: Connection, batch_id: str, known: EndedLines) -> EndedLines:
    row = db.execute(_COUNT, {"batch_id": batch_id, "after": known.position}).fetchone()
    return EndedLines(
        completed=known.completed + row["completed"],
        failed=known.failed + row["ended"] - row["completed"],
        position=row["position"] or known.position,
    )


def _names(row: Row) -> tuple[str, ...]:
    return tuple(json.loads(row["webhooks"]))


def _progress_text(progress: Progress) -> str:
    return json.dumps(asdict(progress))


def _batch(row: Row) -> Batch:
    fields = fields_of(row)
    told = json.loads(fields["progress"])
    told["errors"] = tuple(LineError(**error) for error in told["errors"])
    told["ends_as"] = BatchState(told["ends_as"])
    return Batch(
        batch_id=fields["batch_id"],
        endpoint=fields["endpoint"],
        input_file_id=fields["input_file_id"],
        output_file_id=fields["output_file_id"],
        error_file_id=fields["error_file_id"],
        metadata=json.loads(fields["metadata"]),
        created_at=fields["created_at"],
        expires_at=fields["expires_at"],
        state=BatchState(fields["state"]),
        cancelling_at=fields["cancelling_at"],
        progress=Progress(**told),
        key_id=fields["key_id"],
        retry_of=fields["retry_of"],
        output_seconds=fields["output_seconds"],
        webhooks=_names(row),
        seq=fields["seq"],
    )
