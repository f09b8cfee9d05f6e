"""Files that come in parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from ..batches.records import PartVerdict, StoredFile, Upload, UploadState
from . import files
from .engine import LOCK, Connection, Row, fields_of
from .transaction import Transaction

MAX_PARTS = 10_000

_ADD = """
INSERT INTO uploads (upload_id, key_id, purpose, filename, size_bytes, created_at, expires_at,
    file_seconds, state, file_id, part_ids, clean_at)
VALUES (:upload_id, :key_id, :purpose, :filename, :size_bytes, :created_at, :expires_at,
    :file_seconds, :state, :file_id, :part_ids, :clean_at)
"""
_GET = "SELECT * FROM uploads WHERE upload_id = :upload_id"
_HOLD = f"{_GET} {LOCK}"
_STORED = """
SELECT COUNT(*) AS parts, COALESCE(SUM(size_bytes), 0) AS bytes FROM upload_parts
WHERE upload_id = :upload_id
"""
_ADD_PART = """
INSERT INTO upload_parts (upload_id, part_id, size_bytes) VALUES (:upload_id, :part_id, :size_bytes)
"""
_PARTS = "SELECT part_id, size_bytes FROM upload_parts WHERE upload_id = :upload_id"
_END = """
UPDATE uploads SET state = :state, file_id = :file_id, part_ids = :part_ids, clean_at = :now
WHERE upload_id = :upload_id RETURNING *
"""
_EXPIRE = """
UPDATE uploads SET state = 'expired'
WHERE state = 'pending' AND expires_at <= :now AND clean_at <= :now
"""
_TO_CLEAN = "SELECT * FROM uploads WHERE clean_at <= :now ORDER BY clean_at LIMIT :limit"
_CLEAN_AGAIN = "UPDATE uploads SET clean_at = :again_at WHERE upload_id = :upload_id"
_FORGET_PARTS = "DELETE FROM upload_parts WHERE upload_id = :upload_id"
_FORGET = "DELETE FROM uploads WHERE upload_id = :upload_id"


def add(tx: Transaction, upload: Upload) -> None:
    """Store a new upload."""
    texts = {"state": upload.state.value, "part_ids": json.dumps(upload.part_ids)}
    tx.run(_ADD, {**asdict(upload), **texts})


def get(db: Connection, upload_id: str) -> Upload | None:
    """Return an upload."""
    row = db.execute(_GET, {"upload_id": upload_id}).fetchone()
    return None if row is None else _upload(row)


def add_part(
    tx: Transaction, upload_id: str, part_id: str, size_bytes: int, now: float
) -> PartVerdict:
    """Note a part, unless its upload has ended or has too much.

    Parts may be sent twice, where an answer was lost: there is room for all of them once more.
    """
    upload = _held(tx, upload_id)
    if upload is None or not _is_open(upload, now):
        return PartVerdict.ENDED
    stored = tx.one(_STORED, {"upload_id": upload_id})
    assert stored is not None
    if stored["parts"] >= MAX_PARTS or stored["bytes"] + size_bytes > 2 * upload.size_bytes:
        return PartVerdict.TOO_MUCH
    tx.run(_ADD_PART, {"upload_id": upload_id, "part_id": part_id, "size_bytes": size_bytes})
    return PartVerdict.ADDED


def part_sizes(db: Connection, upload_id: str) -> dict[str, int]:
    """Return the sizes of an upload's parts by their ids."""
    rows = db.execute(_PARTS, {"upload_id": upload_id})
    return {row["part_id"]: row["size_bytes"] for row in rows}


def complete(
    tx: Transaction, upload_id: str, part_ids: Sequence[str], file: StoredFile
) -> Upload | None:
    """End a pending upload, its file being whole with it."""
    upload = _held(tx, upload_id)
    if upload is None or upload.state is not UploadState.PENDING or not files.finish(tx, file):
        return upload
    return _end(tx, upload_id, UploadState.COMPLETED, file.created_at, file.file_id, part_ids)


def cancel(tx: Transaction, upload_id: str, now: float) -> Upload | None:
    """End an upload that is pending."""
    upload = _held(tx, upload_id)
    if upload is None or upload.state is not UploadState.PENDING:
        return upload
    return _end(tx, upload_id, UploadState.CANCELLED, now)


def to_clean(tx: Transaction, now: float, limit: int) -> list[Upload]:
    """Return uploads whose parts are to be removed, and end those whose time is over."""
    tx.run(_EXPIRE, {"now": now})
    return [_upload(row) for row in tx.all(_TO_CLEAN, {"now": now, "limit": limit})]


def cleaned(tx: Transaction, upload_id: str, again_at: float | None) -> None:
    """Note when parts are to be removed again; None: forget the upload."""
    if again_at is not None:
        tx.run(_CLEAN_AGAIN, {"upload_id": upload_id, "again_at": again_at})
        return
    tx.run(_FORGET_PARTS, {"upload_id": upload_id})
    tx.run(_FORGET, {"upload_id": upload_id})


def _is_open(upload: Upload, now: float) -> bool:
    return upload.state is UploadState.PENDING and now < upload.expires_at


def _end(
    tx: Transaction,
    upload_id: str,
    state: UploadState,
    now: float,
    file_id: str | None = None,
    part_ids: Sequence[str] = (),
) -> Upload | None:
    texts = {"state": state.value, "part_ids": json.dumps(list(part_ids))}
    row = tx.one(_END, {"upload_id": upload_id, "file_id": file_id, "now": now, **texts})
    return None if row is None else _upload(row)


def _held(tx: Transaction, upload_id: str) -> Upload | None:
    row = tx.one(_HOLD, {"upload_id": upload_id})
    return None if row is None else _upload(row)


def _upload(row: Row) -> Upload:
    fields = fields_of(row)
    fields["state"] = UploadState(fields["state"])
    fields["part_ids"] = tuple(json.loads(fields["part_ids"]))
    return Upload(**fields)
