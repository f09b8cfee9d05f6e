"""Which version is meant, and what is told when there is none."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, func, select

from ..engram.keys import LATEST
from .errors import InvalidModelError, ModelNotFoundError
from .tables import MODELS, VERSION_TAGS

NAMED_AT_MOST = 10


class Meant(NamedTuple):
    """A version, and the version tag that led to it."""

    model_id: int
    version: str
    digest: str
    tag: str | None


def resolve(connection: Connection, family: str, asked: str | None) -> Meant:
    """Find a version by its name or by a version tag; None asks for `latest`."""
    if asked is not None and asked != LATEST:
        row = row_of(connection, family, asked)
        if row is not None:
            return Meant(row.id, row.version, row.etag, None)
    name = asked or LATEST
    target = tag_target(connection, family, name)
    if target is None and name == LATEST:
        target = newest(connection, family)
    if target is None:
        raise missing(connection, family, asked)
    return Meant(target.id, target.version, target.etag, name)


def row_of(connection: Connection, family: str, version: str) -> Row[Any] | None:
    """The ids of a version, or None."""
    return connection.execute(_ids(family).where(MODELS.c.version == version)).one_or_none()


def newest(connection: Connection, family: str) -> Row[Any] | None:
    """The ids of the version registered last, or None."""
    return connection.execute(_ids(family).order_by(MODELS.c.id.desc()).limit(1)).one_or_none()


def tag_target(connection: Connection, family: str, name: str) -> Row[Any] | None:
    """The ids of the version that a version tag was set to, and when, or None."""
    query = _ids(family).add_columns(VERSION_TAGS.c.updated_at.label("tagged_at"))
    query = query.join(VERSION_TAGS, VERSION_TAGS.c.model_id == MODELS.c.id)
    ours = (VERSION_TAGS.c.family == family, VERSION_TAGS.c.tag == name)
    return connection.execute(query.where(*ours)).one_or_none()


def to_change(connection: Connection, family: str, version: str) -> Row[Any]:
    """The row of a version that is named itself.

    A tag will not do: a moment later it may point to another version.
    """
    query = select(MODELS).where(MODELS.c.family == family, MODELS.c.version == version)
    row = connection.execute(query).one_or_none()
    if row is not None:
        return row
    meant = resolve(connection, family, version)
    raise InvalidModelError(
        f"version: {version} is a version tag of {family}; name the version that it points to, "
        f"{meant.version}.",
        "version",
    )


def missing(connection: Connection, family: str, version: str | None) -> ModelNotFoundError:
    """The error that says what there is instead."""
    ours = MODELS.c.family == family
    versions = _some(
        connection,
        select(MODELS.c.version).where(ours).order_by(MODELS.c.id.desc()),
        select(func.count()).where(ours),
    )
    if versions:
        return ModelNotFoundError(f"Family {family} has no version {version}; it has {versions}.")
    newest_first = func.max(MODELS.c.id).desc()
    families = _some(
        connection,
        select(MODELS.c.family).group_by(MODELS.c.family).order_by(newest_first),
        select(func.count(MODELS.c.family.distinct())),
    )
    known = f"registered are {families}" if families else "no model is registered yet"
    return ModelNotFoundError(f"There is no model family {family}; {known}.")


def _ids(family: str) -> Select[Any]:
    return select(MODELS.c.id, MODELS.c.version, MODELS.c.etag, MODELS.c.created_at).where(
        MODELS.c.family == family
    )


def _some(connection: Connection, names: Select[Any], count: Select[Any]) -> str:
    shown = list(connection.execute(names.limit(NAMED_AT_MOST)).scalars())
    more = connection.execute(count).scalar_one() - len(shown) if shown else 0
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
