"""From a model to a row and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from .answers import VersionInfo
from .etags import digest_of
from .store import Document, Found
from .tables import MODEL_TAGS, MODELS

LISTED = [column for column in MODELS.c if column.name != "detail"]
"""All but what may be long."""

_DETAIL = ("files", "input_schema", "signature")
_COUNTED = ("file_count", "signed")


def now() -> str:
    """The time as it is stored."""
    return datetime.now(UTC).isoformat()


def add(connection: Connection, described: Mapping[str, Any]) -> Found:
    """Insert a model."""
    moment = now()
    values = _columns(described, 1, moment, moment)
    answer = connection.execute(insert(MODELS).values(values))
    assert answer.inserted_primary_key is not None
    model_id = answer.inserted_primary_key[0]
    _put_labels(connection, model_id, described["tags"])
    return read(connection, model_id)


def change(
    connection: Connection, row: Row[Any], described: Mapping[str, Any], revision: int
) -> Found:
    """Put another description in the place of a row's."""
    values = _columns(described, revision, row.created_at, now())
    connection.execute(update(MODELS).where(MODELS.c.id == row.id).values(values))
    connection.execute(delete(MODEL_TAGS).where(MODEL_TAGS.c.model_id == row.id))
    _put_labels(connection, row.id, described["tags"])
    return read(connection, row.id)


def read(connection: Connection, model_id: int) -> Found:
    """Return a model that is there."""
    row = connection.execute(select(MODELS).where(MODELS.c.id == model_id)).one()
    return Found(document(row), row.etag)


def description(row: Row[Any]) -> Document:
    """What was registered, without what GENOME adds."""
    body = json.loads(row.body)
    for name in _COUNTED:
        del body[name]
    return {**body, **json.loads(row.detail)}


def document(row: Row[Any]) -> Document:
    """A model as it is given out."""
    return {**description(row), **_added(row), "asked_tag": None}


def summary(row: Row[Any], version_tags: list[str]) -> Document:
    """A model as it is listed."""
    return {**json.loads(row.body), **_added(row), "version_tags": version_tags}


def version_info(row: Row[Any], version_tags: list[str]) -> VersionInfo:
    """A version as a family's versions are listed."""
    return VersionInfo(
        version=row.version,
        created_at=datetime.fromisoformat(row.created_at),
        size_bytes=row.size_bytes,
        checksum=json.loads(row.body)["artifact"]["checksum"],
        revision=row.revision,
        version_tags=version_tags,
    )


def _added(row: Row[Any]) -> Document:
    return {
        "revision": row.revision,
        "created_at": row.created_at.replace("+00:00", "Z"),
        "updated_at": row.updated_at.replace("+00:00", "Z"),
    }


def _columns(
    described: Mapping[str, Any], revision: int, created_at: str, updated_at: str
) -> dict[str, Any]:
    body = {name: value for name, value in described.items() if name not in _DETAIL}
    counted = {"file_count": len(described["files"]), "signed": described["signature"] is not None}
    detail = _text({name: described[name] for name in _DETAIL})
    text = _text(body | counted)
    return {
        "family": described["family"],
        "version": described["version"],
        "body": text,
        "detail": detail,
        "size_bytes": described["artifact"]["size_bytes"],
        "format": described["artifact"]["format"],
        "runtime": described["runtime"]["type"],
        "words": _words(described),
        "revision": revision,
        "etag": digest_of(text, detail, str(revision), created_at, updated_at),
        "created_at": created_at,
        "updated_at": updated_at,
    }


def _words(described: Mapping[str, Any]) -> str:
    said = [described[name] for name in ("family", "version", "name", "description")]
    return "\n".join([*said, *described["capabilities"], *described["tags"]]).casefold()


def _put_labels(connection: Connection, model_id: int, labels: list[str]) -> None:
    rows = [{"model_id": model_id, "tag": label} for label in dict.fromkeys(labels)]
    if rows:
        connection.execute(insert(MODEL_TAGS), rows)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
