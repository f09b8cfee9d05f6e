"""Transactions that register, change and forget versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, select

from . import finding, rows
from .errors import ModelConflictError
from .etags import check_unchanged
from .models import ModelSpec
from .store import Document, Found
from .tables import MODELS, VERSION_TAGS


class Outcome(NamedTuple):
    """What came of a registration; `before` is the checksum of the files that were replaced."""

    found: Found
    changed: bool
    before: str | None = None


def register(connection: Connection, spec: ModelSpec, replace: bool) -> Outcome:
    """Add a version, or put it in the place of one if `replace`."""
    described = spec.model_dump(mode="json")
    here = (MODELS.c.family == spec.family, MODELS.c.version == spec.version)
    row = connection.execute(select(MODELS).where(*here)).one_or_none()
    if row is None:
        _check_name_is_free(connection, spec)
        return Outcome(rows.add(connection, described), changed=True)
    known = rows.description(row)
    if known == described:
        return Outcome(Found(rows.document(row), row.etag), changed=False)
    if not replace:
        raise _conflict(known, described)
    before = known["artifact"]["checksum"]
    found = rows.change(connection, row, described, row.revision + 1)
    return Outcome(found, changed=True, before=before)


def update(
    connection: Connection,
    family: str,
    version: str,
    changes: Mapping[str, Any],
    if_match: str | None,
) -> Found:
    """Change what is said about a version."""
    row = _unchanged(connection, family, version, if_match)
    return rows.change(connection, row, {**rows.description(row), **changes}, row.revision)


def forget(
    connection: Connection, family: str, version: str, force: bool, if_match: str | None
) -> list[str]:
    """Delete a version; return the version tags that went with it."""
    row = _unchanged(connection, family, version, if_match)
    query = select(VERSION_TAGS.c.tag).where(VERSION_TAGS.c.model_id == row.id)
    tags = sorted(connection.execute(query).scalars())
    if tags and not force:
        what = "version tag points" if len(tags) == 1 else "version tags point"
        raise ModelConflictError(
            f"The {what} to {family}:{version}: {', '.join(tags[: finding.NAMED_AT_MOST])}; let "
            f"{'it' if len(tags) == 1 else 'them'} point to another version first, or delete "
            "both (--force, or ?force=true)."
        )
    connection.execute(delete(VERSION_TAGS).where(VERSION_TAGS.c.model_id == row.id))
    connection.execute(delete(MODELS).where(MODELS.c.id == row.id))
    return tags


def _unchanged(connection: Connection, family: str, version: str, if_match: str | None) -> Row[Any]:
    row = finding.to_change(connection, family, version)
    check_unchanged(if_match, row.etag, f"{family}:{version}")
    return row


def _check_name_is_free(connection: Connection, spec: ModelSpec) -> None:
    target = finding.tag_target(connection, spec.family, spec.version)
    if target is not None:
        raise ModelConflictError(
            f"{spec.version} is a version tag of {spec.family}, which points to "
            f"{target.version}: choose another name for the version, or remove the tag.",
            "version",
        )


def _conflict(known: Document, given: Document) -> ModelConflictError:
    name = f"{known['family']}:{known['version']}"
    there, here = known["artifact"]["checksum"], given["artifact"]["checksum"]
    how = "replace it on purpose (--replace, or ?replace=true)"
    if there != here:
        return ModelConflictError(
            f"{name} is registered with other files, {there}, not {here}: choose another "
            f"version, or {how}."
        )
    other = ", ".join(name for name in known if known[name] != given[name])
    return ModelConflictError(
        f"{name} is registered with these files, {here}, but with another {other}: change that "
        f"with PUT, or {how}."
    )
