"""The list of a model's files, made from a folder: paths, sizes, SHA-256."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from .digest import manifest_checksum
from .errors import ArtifactRefusedError, EngramError, InvalidKeyError, first_error
from .files import CHUNK_BYTES, OnBytes, local_disk_error
from .formats import ArtifactFormat, check_content, check_shards, detect_format
from .keys import check_key

MAX_FILES = 10_000
HASHERS = 4
_SKIPPED_NAMES = frozenset({"__pycache__"})


@dataclass(frozen=True, slots=True, order=True)
class ManifestFile:
    """One file: its path in the model, its size in bytes, its SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model's files, by path, and what kind of model they make."""

    files: tuple[ManifestFile, ...]
    format: ArtifactFormat

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size for file in self.files)

    @property
    def checksum(self) -> str:
        """The digest of the canonical manifest, "sha256:<hex>"."""
        return manifest_checksum((file.path, file.size, file.sha256) for file in self.files)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that belongs to the model, not hashed yet."""

    name: str
    path: Path
    size: int


def find_files(directory: Path, exclude: Sequence[str] = ()) -> list[FoundFile]:
    """Return the files below `directory` that make the model, by name. Blocks.

    Left out are hidden files and folders, `__pycache__`, and whatever matches a glob of
    `exclude` (against the path in the model or the bare name). Raises ArtifactRefusedError for
    pickles, damaged weights, links that leave the folder, special files and strange names, and
    LocalDiskError when something cannot be read.
    """
    try:
        root = directory.resolve(strict=True)
        found = sorted(_walk(root, root, exclude), key=lambda file: file.name)
        if len(found) > MAX_FILES:
            raise ArtifactRefusedError(f"The folder holds more than {MAX_FILES} files.")
        for file in found:
            check_content(file.path, file.name)
        check_shards(root, (file.name for file in found))
    except OSError as error:
        raise local_disk_error("read", Path(error.filename or directory), error) from error
    return found


async def build_manifest(
    directory: Path, exclude: Sequence[str] = (), on_bytes: OnBytes | None = None
) -> Manifest:
    """Check and hash a folder, several files at a time, in threads. Raises as find_files.

    Cancelling stops the hashing within a chunk.
    """
    found = await asyncio.to_thread(find_files, directory, exclude)
    form = detect_format(file.name for file in found)
    return Manifest(tuple(await hash_files(found, on_bytes)), form)


async def hash_files(
    found: Sequence[FoundFile], on_bytes: OnBytes | None = None
) -> list[ManifestFile]:
    """Return the hashed files, in the same order. Raises LocalDiskError."""
    loop = asyncio.get_running_loop()
    stop = threading.Event()
    slots = asyncio.Semaphore(HASHERS)

    def report(count: int) -> None:
        if on_bytes is not None:
            loop.call_soon_threadsafe(on_bytes, count)

    async def hash_one(file: FoundFile) -> ManifestFile:
        async with slots:
            try:
                return await asyncio.to_thread(_hash, file, stop, report)
            except OSError as error:
                raise local_disk_error("read", file.path, error) from error

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(hash_one(file)) for file in found]
    except* EngramError as failed:
        raise first_error(failed) from None
    finally:
        stop.set()
    return [task.result() for task in tasks]


def _hash(file: FoundFile, stop: threading.Event, report: OnBytes) -> ManifestFile:
    digest = hashlib.sha256()
    size = 0
    with file.path.open("rb") as stream:
        while not stop.is_set() and (chunk := stream.read(CHUNK_BYTES)):
            digest.update(chunk)
            size += len(chunk)
            report(len(chunk))
    if size != file.size and not stop.is_set():
        raise ArtifactRefusedError(f"{file.name} changed while it was read.")
    return ManifestFile(file.name, size, digest.hexdigest())


def _walk(root: Path, folder: Path, exclude: Sequence[str]) -> Iterator[FoundFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            name = path.relative_to(root).as_posix()
            if entry.name.startswith(".") or entry.name in _SKIPPED_NAMES:
                continue
            if any(fnmatch(name, glob) or fnmatch(entry.name, glob) for glob in exclude):
                continue
            if entry.is_symlink():
                _check_link(root, path, name)
            if entry.is_dir():
                yield from _walk(root, path, exclude)
            else:
                yield _found(path, name)


def _check_link(root: Path, path: Path, name: str) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise ArtifactRefusedError(f"{name} is a link that leads nowhere.") from None
    if not target.is_relative_to(root):
        raise ArtifactRefusedError(f"{name} is a link that leaves the folder.")
    if target.is_dir():
        raise ArtifactRefusedError(f"{name} is a link to a folder; put the files there instead.")


def _found(path: Path, name: str) -> FoundFile:
    try:
        check_key(name)
    except InvalidKeyError as error:
        raise ArtifactRefusedError(f"The folder holds a file whose {error.message}") from error
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactRefusedError(f"{name} is not a regular file.")
    return FoundFile(name, path, status.st_size)
