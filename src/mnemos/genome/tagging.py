"""Transactions about version tags."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from ..engram.keys import LATEST
from . import finding, rows
from .answers import VersionTag, VersionTags
from .errors import ModelChangedError, ModelConflictError, TagNotFoundError
from .etags import check_unchanged, digest_of
from .store import TagSet
from .tables import MODELS, VERSION_TAGS


def digest_of_tag(tag: VersionTag) -> str:
    """What the ETag of a version tag holds."""
    return digest_of(tag.model_dump_json())


def list_tags(connection: Connection, family: str) -> VersionTags:
    """All version tags of a family, and `latest`."""
    newest = _newest(connection, family)
    query = select(VERSION_TAGS.c.tag, MODELS.c.version, VERSION_TAGS.c.updated_at)
    query = query.join(MODELS, VERSION_TAGS.c.model_id == MODELS.c.id)
    found = connection.execute(query.where(VERSION_TAGS.c.family == family))
    tags = {row.tag: _tag(family, row.tag, row.version, row.updated_at) for row in found}
    tags.setdefault(LATEST, newest)
    return VersionTags(family=family, tags=[tags[name] for name in sorted(tags)])


def find_tag(connection: Connection, family: str, name: str) -> VersionTag:
    """One version tag."""
    tag = _find(connection, family, name)
    if tag is None:
        raise _no_tag(connection, family, name)
    return tag


def set_tag(
    connection: Connection,
    family: str,
    name: str,
    version: str,
    if_match: str | None,
    if_new: bool,
) -> TagSet:
    """Let a version tag point to a version."""
    before = _find(connection, family, name)
    _check_condition(before, family, name, if_match, if_new)
    if finding.row_of(connection, family, name) is not None:
        raise ModelConflictError(
            f"{name} is a version of {family}, and a version tag may not have its name.", "tag"
        )
    target = finding.to_change(connection, family, version)
    values = {"model_id": target.id, "updated_at": rows.now()}
    pinned_to = before.version if before is not None and before.pinned else None
    if pinned_to is None:
        values |= {"family": family, "tag": name}
        connection.execute(insert(VERSION_TAGS).values(values))
    elif pinned_to != version:
        connection.execute(update(VERSION_TAGS).where(*_is(family, name)).values(values))
    return TagSet(find_tag(connection, family, name), pinned_to)


def remove_tag(connection: Connection, family: str, name: str, if_match: str | None) -> VersionTag:
    """Forget a version tag; return what it was."""
    tag = find_tag(connection, family, name)
    check_unchanged(if_match, digest_of_tag(tag), f"The version tag {name} of {family}")
    if not tag.pinned:
        raise TagNotFoundError(
            f"The version tag latest of {family} is not pinned: it follows the newest version."
        )
    connection.execute(delete(VERSION_TAGS).where(*_is(family, name)))
    return tag


def _check_condition(
    before: VersionTag | None, family: str, name: str, if_match: str | None, if_new: bool
) -> None:
    what = f"The version tag {name} of {family}"
    if before is not None:
        check_unchanged(if_match, digest_of_tag(before), what)
        if if_new and before.pinned:
            raise ModelChangedError(f"{what} is there already: it points to {before.version}.")
    elif if_match is not None:
        raise ModelChangedError(f"{what} is not there, and If-Match asks for it.")


def _find(connection: Connection, family: str, name: str) -> VersionTag | None:
    target = finding.tag_target(connection, family, name)
    if target is not None:
        return _tag(family, name, target.version, target.tagged_at)
    return _newest(connection, family) if name == LATEST else None


def _newest(connection: Connection, family: str) -> VersionTag:
    newest = finding.newest(connection, family)
    if newest is None:
        raise finding.missing(connection, family, None)
    return _tag(family, LATEST, newest.version, newest.created_at, pinned=False)


def _tag(family: str, name: str, version: str, moment: str, *, pinned: bool = True) -> VersionTag:
    return VersionTag(
        family=family,
        tag=name,
        version=version,
        pinned=pinned,
        updated_at=datetime.fromisoformat(moment),
    )


def _no_tag(connection: Connection, family: str, name: str) -> TagNotFoundError:
    known = ", ".join(tag.tag for tag in list_tags(connection, family).tags)
    return TagNotFoundError(f"Family {family} has no version tag {name}; it has {known}.", "tag")


def _is(family: str, name: str) -> tuple[Any, Any]:
    return (VERSION_TAGS.c.family == family, VERSION_TAGS.c.tag == name)
