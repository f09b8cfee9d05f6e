"""The list of files."""

from __future__ import annotations

from dataclasses import asdict

from ..batches.records import OPEN, StoredFile
from .engine import Connection, Row, fields_of
from .transaction import Transaction

_OPEN = ", ".join(f"'{state.value}'" for state in sorted(OPEN))
_READ = f"""EXISTS (
    SELECT 1 FROM batches WHERE batches.input_file_id = files.file_id AND batches.state IN ({_OPEN})
)"""  # noqa: S608  constants only
_THERE = f"whole AND (expires_at IS NULL OR expires_at > :now OR {_READ})"
_ADD = """
INSERT INTO files (file_id, purpose, filename, size_bytes, created_at, expires_at, key_id, whole)
VALUES (:file_id, :purpose, :filename, :size_bytes, :created_at, :expires_at, :key_id, :whole)
ON CONFLICT (file_id) DO UPDATE SET size_bytes = excluded.size_bytes
"""
_FINISH = """
UPDATE files SET whole = TRUE, size_bytes = :size_bytes, expires_at = :expires_at
WHERE file_id = :file_id RETURNING file_id
"""
_GET = f"SELECT * FROM files WHERE file_id = :file_id AND {_THERE}"  # noqa: S608
_REMOVE = "DELETE FROM files WHERE file_id = :file_id RETURNING file_id"
_EXPIRED = f"""
SELECT file_id FROM files WHERE expires_at <= :now AND NOT {_READ} ORDER BY expires_at LIMIT :limit
"""  # noqa: S608
_LIST = f"""
SELECT * FROM files
WHERE (:purpose = '' OR purpose = :purpose) AND (:everybody OR key_id = :key_id)
    AND (:after = '' OR seq {{beyond}} (SELECT seq FROM files WHERE file_id = :after)) AND {_THERE}
ORDER BY seq {{order}} LIMIT :limit
"""  # noqa: S608
_OLDEST_FIRST = _LIST.format(beyond=">", order="ASC")
_NEWEST_FIRST = _LIST.format(beyond="<", order="DESC")


def add(tx: Transaction, file: StoredFile) -> None:
    """Note a file, or note it anew."""
    values = asdict(file)
    del values["seq"]
    tx.run(_ADD, values)


def finish(tx: Transaction, file: StoredFile) -> bool:
    """Note that a file is whole; return whether it was still expected."""
    names = ("file_id", "size_bytes", "expires_at")
    return tx.one(_FINISH, {name: getattr(file, name) for name in names}) is not None


def get(db: Connection, file_id: str, now: float) -> StoredFile | None:
    """Return a file that is there."""
    row = db.execute(_GET, {"file_id": file_id, "now": now}).fetchone()
    return None if row is None else _file(row)


def page(
    db: Connection,
    purpose: str | None,
    after: str | None,
    limit: int,
    *,
    oldest_first: bool,
    now: float,
    key_id: str | None,
) -> list[StoredFile]:
    """Return files in order."""
    statement = _OLDEST_FIRST if oldest_first else _NEWEST_FIRST
    wanted = {"purpose": purpose or "", "after": after or "", "limit": limit, "now": now}
    whose = {"everybody": key_id is None, "key_id": key_id or ""}
    return [_file(row) for row in db.execute(statement, {**wanted, **whose})]


def expired(db: Connection, now: float, limit: int) -> list[str]:
    """Return files whose time is over and that no open batch reads."""
    rows = db.execute(_EXPIRED, {"now": now, "limit": limit})
    return [row["file_id"] for row in rows]


def remove(tx: Transaction, file_id: str) -> bool:
    """Forget a file."""
    return tx.one(_REMOVE, {"file_id": file_id}) is not None


def _file(row: Row) -> StoredFile:
    fields = fields_of(row)
    return StoredFile(**{**fields, "whole": bool(fields["whole"])})
