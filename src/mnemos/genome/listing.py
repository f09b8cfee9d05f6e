"""Pages of models and of versions; each begins where the last one ended, whatever came since."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, exists, func, or_, select

from ..engram.keys import LATEST
from . import finding, rows
from .answers import FamilyVersions
from .errors import InvalidModelError
from .semver import Key, version_key
from .store import Document, ModelQuery, VersionQuery
from .tables import MODEL_TAGS, MODELS, VERSION_TAGS

_MODEL_CURSOR = re.compile(r"m([0-9]{1,18})")
_VERSION_CURSOR = re.compile(r"v([0-9]{1,18})\.(.{1,128})")


def models_page(connection: Connection, query: ModelQuery) -> Document:
    """One page of models, newest first."""
    filters = _filters(query)
    page = select(*rows.LISTED).where(*filters).order_by(MODELS.c.id.desc())
    if query.cursor:
        page = page.where(MODELS.c.id < int(_parse(_MODEL_CURSOR, query.cursor)[1]))
    found = list(connection.execute(page.limit(query.limit + 1)))
    shown, more = found[: query.limit], len(found) > query.limit
    tags = _tags_of(connection, [row.id for row in shown])
    total = None
    if query.with_total:
        total = connection.execute(
            select(func.count()).select_from(MODELS).where(*filters)
        ).scalar_one()
    return {
        "models": [rows.summary(row, tags[row.id]) for row in shown],
        "next_cursor": f"m{shown[-1].id}" if more else None,
        "total": total,
    }


def versions_page(connection: Connection, family: str, query: VersionQuery) -> FamilyVersions:
    """One page of a family's versions."""
    names = select(MODELS.c.id, MODELS.c.version).where(MODELS.c.family == family)
    found = list(connection.execute(names.order_by(MODELS.c.id.desc())))
    if not found:
        raise finding.missing(connection, family, None)
    by_semver = query.order == "semver"
    found.sort(key=lambda row: _order(row.version, row.id, by_semver), reverse=True)
    if query.cursor:
        parsed = _parse(_VERSION_CURSOR, query.cursor)
        last = _order(parsed[2], int(parsed[1]), by_semver)
        found = [row for row in found if _order(row.version, row.id, by_semver) < last]
    shown, more = found[: query.limit], len(found) > query.limit
    ids = [row.id for row in shown]
    tags = _tags_of(connection, ids)
    whole = {
        row.id: row for row in connection.execute(select(*rows.LISTED).where(MODELS.c.id.in_(ids)))
    }
    return FamilyVersions(
        family=family,
        versions=[rows.version_info(whole[model_id], tags[model_id]) for model_id in ids],
        next_cursor=f"v{shown[-1].id}.{shown[-1].version}" if more else None,
    )


def _order(version: str, model_id: int, by_semver: bool) -> tuple[Key, int]:
    return (version_key(version) if by_semver else (), model_id)


def _filters(query: ModelQuery) -> list[ColumnElement[bool]]:
    equal = ((MODELS.c.family, query.family), (MODELS.c.format, query.format),
             (MODELS.c.runtime, query.runtime))  # fmt: skip
    filters = [column == value for column, value in equal if value is not None]
    if query.label is not None:
        labelled = (MODEL_TAGS.c.model_id == MODELS.c.id, MODEL_TAGS.c.tag == query.label)
        filters.append(exists().where(*labelled))
    if query.version_tag is not None:
        filters.append(_is_tagged(query.version_tag))
    words = (query.search or "").casefold().split()
    return filters + [MODELS.c.words.contains(word, autoescape=True) for word in words]


def _is_tagged(tag: str) -> ColumnElement[bool]:
    tagged = exists().where(VERSION_TAGS.c.model_id == MODELS.c.id, VERSION_TAGS.c.tag == tag)
    if tag != LATEST:
        return tagged
    others = MODELS.alias()
    newest = select(func.max(others.c.id)).where(others.c.family == MODELS.c.family)
    pinned = exists().where(VERSION_TAGS.c.family == MODELS.c.family, VERSION_TAGS.c.tag == tag)
    return or_(tagged, ~pinned & (MODELS.c.id == newest.scalar_subquery()))


def _tags_of(connection: Connection, ids: Iterable[int]) -> dict[int, list[str]]:
    """The version tags that were set to each of the models."""
    query = select(VERSION_TAGS.c.model_id, VERSION_TAGS.c.tag)
    found: dict[int, list[str]] = defaultdict(list)
    for row in connection.execute(query.where(VERSION_TAGS.c.model_id.in_(list(ids)))):
        found[row.model_id].append(row.tag)
    for tags in found.values():
        tags.sort()
    return found


def _parse(shape: re.Pattern[str], cursor: str) -> re.Match[str]:
    parsed = shape.fullmatch(cursor)
    if parsed is None:
        raise InvalidModelError("cursor is not one that GENOME gave out.", "cursor")
    return parsed
