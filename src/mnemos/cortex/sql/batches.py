"""Batches, who drives them, and the lines of theirs that became no job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from ..batches.records import OPEN, Batch, BatchState, Fault, LineError, Progress
from ..notifier import BATCHES_TOPIC, group_topic
from .engine import LOCK_FREE, Connection, Row, fields_of
from .many import INT, TEXT, Many
from .transaction import Transaction

_OPEN = ", ".join(f"'{state.value}'" for state in sorted(OPEN))
_ADD = """
INSERT INTO batches (batch_id, endpoint, input_file_id, output_file_id, error_file_id, metadata,
    created_at, expires_at, state, progress, owner, owned_until)
VALUES (:batch_id, :endpoint, :input_file_id, :output_file_id, :error_file_id, :metadata,
    :created_at, :expires_at, :state, :progress, '', 0)
"""
_GET = "SELECT * FROM batches WHERE batch_id = :batch_id"
_OF_FILE = "SELECT * FROM batches WHERE output_file_id = :file_id OR error_file_id = :file_id"
_READS = f"""
SELECT 1 FROM batches WHERE input_file_id = :file_id AND state IN ({_OPEN}) LIMIT 1
"""  # noqa: S608  constants only
_LIST = """
SELECT * FROM batches
WHERE :after = '' OR seq < (SELECT seq FROM batches WHERE batch_id = :after)
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
_LEAVE = "UPDATE batches SET owned_until = 0, owner = '' WHERE owner = :owner RETURNING batch_id"
_SAVE = """
UPDATE batches SET state = :state, progress = :progress
WHERE batch_id = :batch_id AND owner = :owner RETURNING batch_id
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


def add(tx: Transaction, batch: Batch) -> None:
    """Store a new batch."""
    columns = "batch_id endpoint input_file_id output_file_id error_file_id created_at expires_at"
    values = {name: getattr(batch, name) for name in columns.split()}
    values["state"] = batch.state.value
    values["metadata"] = json.dumps(dict(batch.metadata))
    values["progress"] = _progress_text(batch.progress)
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


def page(db: Connection, after: str | None, limit: int) -> list[Batch]:
    """Return batches, newest first."""
    rows = db.execute(_LIST, {"after": after or "", "limit": limit})
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


def leave(tx: Transaction, owner: str) -> None:
    """End all ownerships of `owner`."""
    if tx.all(_LEAVE, {"owner": owner}):
        tx.topics.add(BATCHES_TOPIC)


def save(tx: Transaction, batch_id: str, owner: str, state: BatchState, progress: Progress) -> bool:
    """Write how far a batch is, if it is owned."""
    wanted = {"batch_id": batch_id, "owner": owner, "state": state.value}
    return tx.one(_SAVE, {**wanted, "progress": _progress_text(progress)}) is not None


def add_faults(tx: Transaction, batch_id: str, faults: Sequence[Fault]) -> None:
    """Keep faults, each once."""
    rows = [(batch_id, one.line, one.custom_id, one.status, one.error) for one in faults]
    tx.write(_ADD_FAULT, rows)


def faults(db: Connection, batch_id: str, after_line: int, limit: int) -> list[Fault]:
    """Return faults in order."""
    wanted = {"batch_id": batch_id, "after": after_line, "limit": limit}
    return [Fault(**fields_of(row)) for row in db.execute(_FAULTS, wanted)]


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
        seq=fields["seq"],
    )
