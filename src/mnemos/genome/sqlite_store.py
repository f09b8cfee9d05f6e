"""The registry in one SQLite file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, func, insert, select, update

from .errors import InvalidModelError, ModelConflictError, ModelNotFoundError
from .models import FamilyVersions, Model, ModelPage, ModelSpec, VersionInfo
from .sqlite_database import SqliteDatabase
from .store import Registration
from .tables import MODEL_TAGS, MODELS

FILE_NAME = "genome.sqlite"
_NAMED_AT_MOST = 10


class SqliteModelStore:
    """ModelStore on SQLite; open one with `open_store()`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def register(self, spec: ModelSpec, *, replace: bool = False) -> Registration:
        """Add a version; see ModelStore."""
        return await self._database.write(lambda connection: _register(connection, spec, replace))

    async def get(self, family: str, version: str | None = None) -> Model:
        """Return a version or the newest; see ModelStore."""
        row = await self._database.read(lambda connection: _find(connection, family, version))
        return _model(row)

    async def list(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        family: str | None = None,
        tag: str | None = None,
    ) -> ModelPage:
        """Return one page, newest first; see ModelStore."""
        before = _parse_cursor(cursor)
        rows = await self._database.read(
            lambda connection: _page(connection, limit + 1, before, family, tag)
        )
        more = len(rows) > limit
        shown = rows[:limit]
        next_cursor = f"m{shown[-1].id}" if more else None
        return ModelPage(models=[_model(row) for row in shown], next_cursor=next_cursor)

    async def versions(self, family: str) -> FamilyVersions:
        """Return a family's versions; see ModelStore."""
        rows = await self._database.read(lambda connection: _versions(connection, family))
        if not rows:
            raise await self._database.read(lambda connection: _missing(connection, family, None))
        infos = [
            VersionInfo(
                version=row.version, created_at=_time(row.created_at), size_bytes=row.size_bytes
            )
            for row in rows
        ]
        return FamilyVersions(family=family, versions=infos)

    async def update(
        self, family: str, version: str, change: Callable[[ModelSpec], ModelSpec]
    ) -> Model:
        """Change a version in one transaction; see ModelStore."""

        def work(connection: Connection) -> Model:
            row = _find(connection, family, version)
            return _replace(connection, row, change(_spec(row)))

        return await self._database.write(work)

    async def delete(self, family: str, version: str) -> None:
        """Forget a version; see ModelStore."""

        def work(connection: Connection) -> None:
            row = _find(connection, family, version)
            connection.execute(delete(MODELS).where(MODELS.c.id == row.id))

        await self._database.write(work)

    async def check(self) -> None:
        """Return when the file can be written; see ModelStore."""
        # Reserving the write lock and a page says what a read cannot: the disk takes writes.
        await self._database.write(lambda connection: _touch(connection))

    async def count(self) -> int:
        """Return how many versions there are; see ModelStore."""
        query = select(func.count()).select_from(MODELS)
        return await self._database.read(lambda connection: connection.execute(query).scalar_one())


@contextlib.asynccontextmanager
async def open_store(data_dir: Path) -> AsyncIterator[SqliteModelStore]:
    """Open (make, migrate) the registry in `data_dir`. Raises GenomeUnavailableError."""
    database = SqliteDatabase(data_dir / FILE_NAME)
    try:
        await database.open()
        yield SqliteModelStore(database)
    finally:
        await database.close()


def _register(connection: Connection, spec: ModelSpec, replace: bool) -> Registration:
    row = _row(connection, spec.family, spec.version)
    if row is None:
        return Registration(_insert(connection, spec), created=True)
    if _spec(row) == spec:
        return Registration(_model(row), created=False)
    if not replace:
        raise ModelConflictError(
            f"{spec.family}:{spec.version} is registered with other content; choose another "
            "version, or replace it on purpose (?replace=true)."
        )
    return Registration(_replace(connection, row, spec), created=True)


def _insert(connection: Connection, spec: ModelSpec) -> Model:
    now = datetime.now(UTC)
    values = _columns(spec) | {"created_at": now.isoformat(), "updated_at": now.isoformat()}
    answer = connection.execute(insert(MODELS).values(values))
    assert answer.inserted_primary_key is not None
    _put_tags(connection, answer.inserted_primary_key[0], spec)
    return _with_times(spec, now, now)


def _replace(connection: Connection, row: Row[Any], spec: ModelSpec) -> Model:
    now = datetime.now(UTC)
    values = _columns(spec) | {"updated_at": now.isoformat()}
    connection.execute(update(MODELS).where(MODELS.c.id == row.id).values(values))
    connection.execute(delete(MODEL_TAGS).where(MODEL_TAGS.c.model_id == row.id))
    _put_tags(connection, row.id, spec)
    return _with_times(spec, _time(row.created_at), now)


def _columns(spec: ModelSpec) -> dict[str, Any]:
    return {
        "family": spec.family,
        "version": spec.version,
        "body": spec.model_dump_json(),
        "size_bytes": spec.artifact.size_bytes,
    }


def _put_tags(connection: Connection, model_id: int, spec: ModelSpec) -> None:
    tags = [{"model_id": model_id, "tag": tag} for tag in dict.fromkeys(spec.tags)]
    if tags:
        connection.execute(insert(MODEL_TAGS), tags)


def _row(connection: Connection, family: str, version: str | None) -> Row[Any] | None:
    query = select(MODELS).where(MODELS.c.family == family)
    if version is not None:
        query = query.where(MODELS.c.version == version)
    return connection.execute(query.order_by(MODELS.c.id.desc()).limit(1)).one_or_none()


def _find(connection: Connection, family: str, version: str | None) -> Row[Any]:
    row = _row(connection, family, version)
    if row is None:
        raise _missing(connection, family, version)
    return row


def _missing(connection: Connection, family: str, version: str | None) -> ModelNotFoundError:
    versions = [row.version for row in _versions(connection, family)]
    if versions:
        return ModelNotFoundError(
            f"Family {family} has no version {version}; it has {_some(versions)}."
        )
    query = select(MODELS.c.family).group_by(MODELS.c.family)
    families = list(connection.execute(query.order_by(func.max(MODELS.c.id).desc())).scalars())
    known = f"registered are {_some(families)}" if families else "no model is registered yet"
    return ModelNotFoundError(f"There is no model family {family}; {known}.")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED_AT_MOST])
    more = len(names) - _NAMED_AT_MOST
    return f"{shown} and {more} more" if more > 0 else shown


def _versions(connection: Connection, family: str) -> list[Row[Any]]:
    query = select(MODELS.c.version, MODELS.c.created_at, MODELS.c.size_bytes)
    query = query.where(MODELS.c.family == family).order_by(MODELS.c.id.desc())
    return list(connection.execute(query))


def _page(
    connection: Connection, limit: int, before: int | None, family: str | None, tag: str | None
) -> list[Row[Any]]:
    query = select(MODELS).order_by(MODELS.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(MODELS.c.id < before)
    if family is not None:
        query = query.where(MODELS.c.family == family)
    if tag is not None:
        tagged = exists().where(MODEL_TAGS.c.model_id == MODELS.c.id, MODEL_TAGS.c.tag == tag)
        query = query.where(tagged)
    return list(connection.execute(query))


def _touch(connection: Connection) -> None:
    connection.exec_driver_sql("PRAGMA user_version = 0")


def _parse_cursor(cursor: str | None) -> int | None:
    if cursor is None or cursor == "":
        return None
    digits = cursor.removeprefix("m")
    if cursor == digits or not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise InvalidModelError("cursor is not one that GENOME gave out.", "cursor")
    return int(digits)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _spec(row: Row[Any]) -> ModelSpec:
    return ModelSpec.model_validate(json.loads(row.body))


def _model(row: Row[Any]) -> Model:
    return _with_times(_spec(row), _time(row.created_at), _time(row.updated_at))


def _with_times(spec: ModelSpec, created_at: datetime, updated_at: datetime) -> Model:
    return Model(**spec.model_dump(), created_at=created_at, updated_at=updated_at)
