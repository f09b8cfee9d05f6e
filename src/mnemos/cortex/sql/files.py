"""The list of files."""

from __future__ import annotations

from dataclasses import asdict

from ..batches.records import StoredFile
from .engine import Connection, Row, fields_of
from .transaction import Transaction

_ADD = """
INSERT INTO files (file_id, purpose, filename, size_bytes, created_at, expires_at)
VALUES (:file_id, :purpose, :filename, :size_bytes, :created_at, :expires_at)
ON CONFLICT (file_id) DO UPDATE SET size_bytes = excluded.size_bytes
"""
_GET = "SELECT * FROM files WHERE file_id = :file_id"
_REMOVE = "DELETE FROM files WHERE file_id = :file_id RETURNING file_id"
_LIST = """
SELECT * FROM files
WHERE (:purpose = '' OR purpose = :purpose)
    AND (:after = '' OR seq {beyond} (SELECT seq FROM files WHERE file_id = :after))
ORDER BY seq {order} LIMIT :limit
"""
_OLDEST_FIRST = _LIST.format(beyond=">", order="ASC")
_NEWEST_FIRST = _LIST.format(beyond="<", order="DESC")


def add(tx: Transaction, file: StoredFile) -> None:
    """Note a file, or note it anew."""
    values = asdict(file)
    del values["seq"]
    tx.run(_ADD, values)


def get(db: Connection, file_id: str) -> StoredFile | None:
    """Return a file."""
    row = db.execute(_GET, {"file_id": file_id}).fetchone()
    return None if row is None else _file(row)


def page(
    db: Connection, purpose: str | None, after: str | None, limit: int, oldest_first: bool
) -> list[StoredFile]:
    """Return files in order."""
    statement = _OLDEST_FIRST if oldest_first else _NEWEST_FIRST
    wanted = {"purpose": purpose or "", "after": after or "", "limit": limit}
    return [_file(row) for row in db.execute(statement, wanted)]


def remove(tx: Transaction, file_id: str) -> bool:
    """Forget a file."""
    return tx.one(_REMOVE, {"file_id": file_id}) is not None


def _file(row: Row) -> StoredFile:
    return StoredFile(**fields_of(row))
