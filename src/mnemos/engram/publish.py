"""Puts a folder into ENGRAM as a version of a model, and describes it for GENOME."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .errors import ArtifactRefusedError, EngramError, first_error
from .files import local_disk_error
from .formats import detect_format
from .keys import check_name, check_version
from .manifest import Manifest, ManifestFile, find_files, hash_files
from .purposes import Purpose, find_purpose
from .store import ObjectStore

UPLOADS = 2


@dataclass(frozen=True, slots=True)
class PushProgress:
    """How far a push is: first every file is hashed, then every file is uploaded."""

    phase: Literal["hashing", "uploading"]
    done_bytes: int
    total_bytes: int


OnProgress = Callable[[PushProgress], None]


@dataclass(frozen=True, slots=True)
class Description:
    """What is said about a model besides its files; GENOME's words and defaults."""

    name: str = ""
    description: str = ""
    runtime: str | None = None
    """None: pytorch for custom models (they carry a signature.json), else transformers."""
    runtime_config: Mapping[str, Any] | None = None
    min_gpu_memory_gb: float = 0.0
    min_ram_gb: float = 0.0
    capabilities: Sequence[str] = ()
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] | None = None
    input_schema: Mapping[str, Any] | None = None


async def push_directory(
    store: ObjectStore,
    directory: Path,
    family: str,
    version: str,
    description: Description | None = None,
    *,
    exclude: Sequence[str] = (),
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Upload a folder under `family/version/`; return the body to register with GENOME.

    Nothing is uploaded before everything is checked and hashed, and every upload is compared
    with its hash. Objects of an earlier push that are no part of this one are removed at the
    end. Raises EngramError (ArtifactRefusedError for the folder). A push that failed or was
    cancelled may have left objects, but nothing names them until the body is registered; the
    next push overwrites them.
    """
    check_name(family, "family")
    check_version(version)
    found = await asyncio.to_thread(find_files, directory, exclude)
    form = detect_format(file.name for file in found)
    purpose = await asyncio.to_thread(_find_purpose, directory, [file.name for file in found])
    total = sum(file.size for file in found)
    hashing = _Meter("hashing", total, on_progress)
    manifest = Manifest(tuple(await hash_files(found, hashing.advance)), form)
    await store.ensure_bucket(store.models_bucket)
    uploading = _Meter("uploading", total, on_progress)
    prefix = f"{family}/{version}"
    await _upload(store, prefix, directory, manifest, uploading)
    await _remove_strays(store, prefix, manifest)
    told = _with_purpose(description or Description(), purpose)
    return model_body(manifest, family, version, store.models_bucket, told)


def _find_purpose(directory: Path, names: Sequence[str]) -> Purpose:
    try:
        return find_purpose(directory, names)
    except OSError as error:
        raise local_disk_error("read", Path(error.filename or directory), error) from error


def _with_purpose(description: Description, purpose: Purpose) -> Description:
    """Add what the files say; what a person says goes before it."""
    capabilities = dict.fromkeys((*description.capabilities, *purpose.capabilities))
    metadata = {**purpose.metadata, **(description.metadata or {})}
    return replace(description, capabilities=tuple(capabilities), metadata=metadata)


def model_body(
    manifest: Manifest, family: str, version: str, bucket: str, description: Description
) -> dict[str, Any]:
    """Return the description of a model as GENOME takes it."""
    path = f"{family}/{version}"
    return {
        "family": family,
        "version": version,
        "name": description.name or family,
        "description": description.description,
        "artifact_path": path,
        "artifact": {
            "bucket": bucket,
            "path": path,
            "format": manifest.format,
            "size_bytes": manifest.size_bytes,
            "checksum": manifest.checksum,
        },
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files
        ],
        "runtime": {
            "type": description.runtime or _runtime_for(manifest),
            "config": dict(description.runtime_config or {}),
        },
        "requirements": {
            "min_gpu_memory_gb": description.min_gpu_memory_gb,
            "min_ram_gb": description.min_ram_gb,
        },
        "capabilities": list(description.capabilities),
        "tags": list(description.tags),
        "metadata": dict(description.metadata or {}),
        "input_schema": dict(description.input_schema) if description.input_schema else None,
    }


def _runtime_for(manifest: Manifest) -> str:
    is_custom = any(file.path == "signature.json" for file in manifest.files)
    return "pytorch" if is_custom else "transformers"


class _Meter:
    """Adds up bytes and tells whoever wants to know; lives on the event loop."""

    def __init__(
        self, phase: Literal["hashing", "uploading"], total: int, on_progress: OnProgress | None
    ) -> None:
        self._progress = PushProgress(phase, 0, total)
        self._on_progress = on_progress

    def advance(self, count: int) -> None:
        self._progress = replace(self._progress, done_bytes=self._progress.done_bytes + count)
        if self._on_progress is not None:
            self._on_progress(self._progress)


async def _upload(
    store: ObjectStore, prefix: str, directory: Path, manifest: Manifest, meter: _Meter
) -> None:
    slots = asyncio.Semaphore(UPLOADS)

    async def upload(file: ManifestFile) -> None:
        async with slots:
            key = f"{prefix}/{file.path}"
            sent = await store.upload_file(
                store.models_bucket, key, directory / file.path, meter.advance
            )
            if (sent.size, sent.sha256) != (file.size, file.sha256):
                raise ArtifactRefusedError(f"{file.path} changed while it was uploaded.")

    try:
        async with asyncio.TaskGroup() as group:
            for file in manifest.files:
                group.create_task(upload(file))
    except* EngramError as failed:
        raise first_error(failed) from None


async def _remove_strays(store: ObjectStore, prefix: str, manifest: Manifest) -> None:
    wanted = {f"{prefix}/{file.path}" for file in manifest.files}
    for info in await store.list(store.models_bucket, prefix):
        if info.key not in wanted:
            await store.delete(store.models_bucket, info.key)
