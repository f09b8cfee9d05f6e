"""The registry in an SQL database, SQLite's or PostgreSQL's: the statements are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from sqlalchemy import Connection, func, select

from . import finding, listing, registering, rows, tagging
from .answers import FamilyVersions, VersionTag, VersionTags
from .database import Database
from .etags import is_known
from .models import ModelSpec
from .store import Document, Found, ModelQuery, Registered, TagSet, VersionQuery
from .tables import MODELS

_log = structlog.get_logger(__name__)


class SqlModelStore:
    """The ModelStore of an open database; it logs each change, for whoever asks later."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, spec: ModelSpec, *, replace: bool = False) -> Registered:
        """Add a version; see ModelStore."""
        outcome = await self._database.write(
            lambda connection: registering.register(connection, spec, replace)
        )
        if outcome.changed:
            _log_registration(outcome)
        return Registered(outcome.found, created=outcome.changed)

    async def get(
        self, family: str, asked: str | None = None, *, if_none_match: str | None = None
    ) -> Found:
        """Return a version; see ModelStore."""

        def work(connection: Connection) -> Found:
            meant = finding.resolve(connection, family, asked)
            if is_known(if_none_match, meant.digest):
                return Found(None, meant.digest)
            document = rows.read(connection, meant.model_id).document
            assert document is not None
            return Found(document | {"asked_tag": meant.tag}, meant.digest)

        return await self._database.read(work)

    async def list(self, query: ModelQuery) -> Document:
        """Return one page, newest first; see ModelStore."""
        return await self._database.read(lambda connection: listing.models_page(connection, query))

    async def versions(self, family: str, query: VersionQuery) -> FamilyVersions:
        """Return a family's versions; see ModelStore."""
        return await self._database.read(
            lambda connection: listing.versions_page(connection, family, query)
        )

    async def update(
        self,
        family: str,
        version: str,
        changes: Mapping[str, Any],
        *,
        if_match: str | None = None,
    ) -> Found:
        """Change a version in one transaction; see ModelStore."""
        found = await self._database.write(
            lambda connection: registering.update(connection, family, version, changes, if_match)
        )
        _log.info("genome.model_updated", family=family, version=version, fields=sorted(changes))
        return found

    async def delete(
        self, family: str, version: str, *, force: bool = False, if_match: str | None = None
    ) -> None:
        """Forget a version; see ModelStore."""
        tags = await self._database.write(
            lambda connection: registering.forget(connection, family, version, force, if_match)
        )
        _log.info("genome.model_deleted", family=family, version=version, version_tags=tags)

    async def tags(self, family: str) -> VersionTags:
        """Return a family's version tags; see ModelStore."""
        return await self._database.read(lambda connection: tagging.list_tags(connection, family))

    async def tag(self, family: str, name: str) -> VersionTag:
        """Return one version tag; see ModelStore."""
        return await self._database.read(
            lambda connection: tagging.find_tag(connection, family, name)
        )

    async def set_tag(
        self, family: str, name: str, version: str, *, if_match: str | None, if_new: bool
    ) -> TagSet:
        """Let a tag point to a version; see ModelStore."""
        done = await self._database.write(
            lambda connection: tagging.set_tag(connection, family, name, version, if_match, if_new)
        )
        if done.before != version:
            _log.info(
                "genome.version_tag_set",
                family=family,
                tag=name,
                version=version,
                before=done.before,
            )
        return done

    async def remove_tag(self, family: str, name: str, *, if_match: str | None = None) -> None:
        """Forget a tag; see ModelStore."""
        tag = await self._database.write(
            lambda connection: tagging.remove_tag(connection, family, name, if_match)
        )
        _log.info("genome.version_tag_removed", family=family, tag=name, version=tag.version)

    async def check(self) -> None:
        """Return when the database can be written; see ModelStore."""
        await self._database.check()

    async def count(self) -> int:
        """Return how many versions there are; see ModelStore."""
        query = select(func.count()).select_from(MODELS)
        return await self._database.read(lambda connection: connection.execute(query).scalar_one())


def _log_registration(outcome: registering.Outcome) -> None:
    model = outcome.found.document
    assert model is not None
    named = {name: model[name] for name in ("family", "version", "revision")}
    checksum = model["artifact"]["checksum"]
    if outcome.before is None:
        _log.info("genome.model_registered", **named, checksum=checksum)
    else:
        _log.warning("genome.model_replaced", **named, checksum=checksum, before=outcome.before)
