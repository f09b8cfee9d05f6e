"""Puts a folder into ENGRAM as a version of a model, and describes it for GENOME.

The files lie below `family/version/<digest>/`, where the digest is the model's own. So a push
never touches an object of a version that is registered with other files, whatever becomes of the
push; and one that broke is continued where it stopped, since an object is there whole or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from .errors import ArtifactRefusedError, EngramError, first_error
from .files import Expected, local_disk_error
from .keys import check_name, check_version
from .manifest import FolderScan, FoundFile, Manifest, ManifestFile, hash_files, scan_folder
from .pickles import scan_pickles
from .purposes import Purpose, find_purpose
from .store import MAX_COPY_BYTES, ObjectStore

UPLOADS = 2
DIGEST_LETTERS = 16
WORTH_COPYING_BYTES = 1024 * 1024
"""Smaller files are sent as quickly as they are copied."""
REUSED_FOR = timedelta(hours=12)
"""An object that an earlier push left is taken over when it is no older than this; so it must be
less than what `strays.py` leaves alone."""


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
    signature: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A folder that was checked and hashed, and may be uploaded."""

    directory: Path
    exclude: tuple[str, ...]
    scan: FolderScan
    manifest: Manifest
    purpose: Purpose
    pickles: Mapping[str, Any] | None = None
    """What the scan of its pickles found; None without any."""

    def describe(self, said: Description) -> Description:
        """Add to what a person says what the files say; the person's word goes first."""
        capabilities = dict.fromkeys((*said.capabilities, *self.purpose.capabilities))
        metadata = {**self.purpose.metadata, **(said.metadata or {})}
        if self.pickles is not None:
            metadata["pickles"] = dict(self.pickles)
        return replace(said, capabilities=tuple(capabilities), metadata=metadata)


async def prepare(
    directory: Path,
    exclude: Sequence[str] = (),
    *,
    allow_pickle: bool = False,
    on_progress: OnProgress | None = None,
) -> Prepared:
    """Check and hash a folder; nothing is uploaded.

    Pickles, where they are allowed, are scanned. Raises ArtifactRefusedError for what must not
    be published, MissingExtraError where the scanner is not installed, LocalDiskError.
    """
    scan = await asyncio.to_thread(
        lambda: scan_folder(directory, exclude, allow_pickle=allow_pickle)
    )
    purpose, pickles = await asyncio.to_thread(_look_closer, directory, scan)
    meter = _Meter("hashing", sum(file.size for file in scan.files), on_progress)
    manifest = Manifest(tuple(await hash_files(scan.files, meter.advance)), scan.format)
    return Prepared(directory, tuple(exclude), scan, manifest, purpose, pickles)


def _look_closer(directory: Path, scan: FolderScan) -> tuple[Purpose, Mapping[str, Any] | None]:
    pickled = {file.name: file.path for file in scan.files if file.kind == "pickle"}
    try:
        return find_purpose(directory, scan.names), scan_pickles(pickled) if pickled else None
    except OSError as error:
        raise local_disk_error("read", Path(error.filename or directory), error) from error


def artifact_path(family: str, version: str, manifest: Manifest) -> str:
    """Where the files of this version with this content lie. Raises InvalidKeyError."""
    check_name(family, "family")
    check_version(version)
    return f"{family}/{version}/{manifest.checksum.removeprefix('sha256:')[:DIGEST_LETTERS]}"


async def upload(
    store: ObjectStore,
    prepared: Prepared,
    path: str,
    *,
    anew: bool = False,
    bucket: str | None = None,
    known: Mapping[str, str] | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Put the files below `path`, which names their content, in the models' bucket by default.

    What an earlier push left there is not sent again unless `anew`. `known` maps the SHA-256 of
    registered files to their keys in that bucket: where the storage copies by itself, they need
    not be sent either. Nothing but the files that
    were hashed can be stored: raises ArtifactRefusedError for a folder that changed meanwhile,
    and EngramError. What was uploaded before a failure stays for the next try.
    """
    bucket = bucket or store.models_bucket
    await store.ensure_bucket(bucket)
    held = {} if anew else await reusable(store, bucket, path)
    donors = dict(known or {}) if store.copies_at_once and not anew else {}
    meter = _Meter("uploading", prepared.manifest.size_bytes, on_progress)
    slots = asyncio.Semaphore(UPLOADS)

    async def send(found: FoundFile, file: ManifestFile) -> None:
        key = f"{path}/{file.path}"
        async with slots:
            donor = donors.get(file.sha256)
            if held.get(key) == file.size or await _copied(store, bucket, donor, key, file.size):
                meter.advance(file.size)
                return
            expected = Expected(file.path, file.size, file.sha256)
            await store.upload_file(bucket, key, found.path, meter.advance, expected)

    try:
        async with asyncio.TaskGroup() as group:
            for found, file in zip(prepared.scan.files, prepared.manifest.files, strict=True):
                group.create_task(send(found, file))
    except* EngramError as failed:
        raise first_error(failed) from None
    await asyncio.to_thread(_check_unchanged, prepared)


async def _copied(store: ObjectStore, bucket: str, donor: str | None, key: str, size: int) -> bool:
    """Whether the storage copied the donor's object; where it cannot, the file is sent."""
    if donor is None or not WORTH_COPYING_BYTES <= size <= MAX_COPY_BYTES:
        return False
    try:
        await store.copy(bucket, donor, key)
        return (await store.head(bucket, key)).size == size
    except EngramError:
        return False


async def reusable(store: ObjectStore, bucket: str, path: str) -> dict[str, int]:
    """Return the objects below `path` that may be taken over from an earlier try, by size."""
    since = datetime.now(UTC) - REUSED_FOR
    listed = await store.list(bucket, path)
    return {info.key: info.size for info in listed if info.last_modified >= since}


def _check_unchanged(prepared: Prepared) -> None:
    """Raise ArtifactRefusedError if files came, went or changed since the folder was hashed."""
    allow_pickle = prepared.scan.format == "pickle"
    now = scan_folder(prepared.directory, prepared.exclude, allow_pickle=allow_pickle).files
    before = {file.name: file for file in prepared.scan.files}
    after = {file.name: file for file in now}
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            happened = "changed" if name in before and name in after else "came or went"
            raise ArtifactRefusedError(f"{name} {happened} while the folder was pushed.")


async def push_directory(
    store: ObjectStore,
    directory: Path,
    family: str,
    version: str,
    description: Description | None = None,
    *,
    exclude: Sequence[str] = (),
    allow_pickle: bool = False,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Check, hash and upload a folder; return the body to register with GENOME.

    Nothing is uploaded before everything is checked and hashed. Raises EngramError. A push that
    failed or was cancelled may have left objects, but nothing names them until the body is
    registered; the next push takes them over, or `mnemos models prune` removes them.
    """
    check_name(family, "family")
    check_version(version)
    prepared = await prepare(directory, exclude, allow_pickle=allow_pickle, on_progress=on_progress)
    path = artifact_path(family, version, prepared.manifest)
    await upload(store, prepared, path, on_progress=on_progress)
    told = prepared.describe(description or Description())
    return model_body(prepared.manifest, family, version, store.models_bucket, told)


def model_body(
    manifest: Manifest, family: str, version: str, bucket: str, description: Description
) -> dict[str, Any]:
    """Return the description of a model as GENOME takes it."""
    path = artifact_path(family, version, manifest)
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
        "signature": dict(description.signature) if description.signature else None,
    }


def _runtime_for(manifest: Manifest) -> str:
    is_custom = any(file.path == "signature.json" for file in manifest.files)
    return "pytorch" if is_custom else "transformers"


@dataclass(slots=True)
class _Meter:
    """Adds up bytes and tells whoever wants to know; lives on the event loop."""

    phase: Literal["hashing", "uploading"]
    total_bytes: int
    on_progress: OnProgress | None
    done_bytes: int = field(default=0, init=False)

    def advance(self, count: int) -> None:
        self.done_bytes += count
        if self.on_progress is not None:
            self.on_progress(PushProgress(self.phase, self.done_bytes, self.total_bytes))
