"""Finding and removing the objects that no registered model names any more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from mnemos.engram.store import ObjectInfo, ObjectStore
from mnemos.engram.strays import find_strays, remove_unfinished, version_of

from .registry import GenomeClient, open_genome, told_plainly

if TYPE_CHECKING:
    from ..engram import EngramTarget

DELETES = 8
PAGE = 100


class Strays(NamedTuple):
    """What may go, and what it takes."""

    store: ObjectStore
    objects: Sequence[ObjectInfo]
    older_than: timedelta

    @property
    def size_bytes(self) -> int:
        """What they take together."""
        return sum(info.size for info in self.objects)


async def look_for_strays(
    genome_url: str, engram: EngramTarget, older_than: timedelta, *, unregistered: bool
) -> Strays:
    """Return the strays of the versions that GENOME knows; of all others, too, if asked.

    A version that was registered or replaced within `older_than` is left alone. Raises CliError.
    """
    store = engram.open()
    with told_plainly():
        # ENGRAM first: what is pushed and registered meanwhile is then not in the list.
        listed = await store.list(store.models_bucket)
        async with open_genome(genome_url) as genome:
            models = await _registered(genome, store.models_bucket)
    known = {(model["family"], model["version"]) for model in models}
    before = datetime.now(UTC) - older_than
    settled = {
        (model["family"], model["version"])
        for model in models
        if datetime.fromisoformat(model["updated_at"]) < before
    }
    if unregistered:
        found = (version_of(info.key) for info in listed)
        settled |= {name for name in found if name is not None and name not in known}
    named = {
        f"{model['artifact_path']}/{file['path']}" for model in models for file in model["files"]
    }
    return Strays(store, find_strays(listed, named, settled, older_than), older_than)


async def remove_strays(strays: Strays) -> None:
    """Delete them, and what killed pushes wrote half. Raises CliError; the rest goes next time."""
    slots = asyncio.Semaphore(DELETES)

    async def remove(info: ObjectInfo) -> None:
        async with slots:
            await strays.store.delete(strays.store.models_bucket, info.key)

    with told_plainly():
        async with asyncio.TaskGroup() as group:
            for info in strays.objects:
                group.create_task(remove(info))
        await remove_unfinished(strays.store, strays.store.models_bucket, strays.older_than)


async def _registered(genome: GenomeClient, bucket: str) -> list[dict[str, Any]]:
    """Every version whose files lie in this bucket, with its files."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = await genome.list(limit=PAGE, cursor=cursor)
        for each in page.models:
            if each.artifact.bucket == bucket:
                whole = await genome.get(each.family, each.version)
                found.append(whole.model_dump(mode="json"))
        cursor = page.next_cursor
        if not cursor:
            return found
