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
from .formats import ArtifactFormat, FileKind, check_content, check_shards, detect_format
from .names import check_apart, check_file_name

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
    """Where it really lies: links are followed."""
    size: int
    modified_ns: int
    kind: FileKind


@dataclass(frozen=True, slots=True)
class FolderScan:
    """The files that make the model, by name, and what was left out of it."""

    files: tuple[FoundFile, ...]
    left_out: tuple[str, ...]
    format: ArtifactFormat

    @property
    def names(self) -> list[str]:
        """The files' paths in the model."""
        return [file.name for file in self.files]


def scan_folder(
    directory: Path, exclude: Sequence[str] = (), *, allow_pickle: bool = False
) -> FolderScan:
    """Return the files below `directory` that make the model. Blocks.

    Left out are hidden files and folders, `__pycache__`, and whatever matches a glob of
    `exclude` (against the path in the model or the bare name). Links are followed as long as
    they stay in the folder, or, where it is a snapshot in the Hugging Face hub's cache, in that
    cache's blobs. Raises ArtifactRefusedError for pickles (unless allowed), damaged weights,
    other links, special files and strange names, and LocalDiskError when something cannot be
    read.
    """
    try:
        walk = _Walk(directory.resolve(strict=True), exclude, allow_pickle=allow_pickle)
        found = sorted(walk.files(), key=lambda file: file.name)
        check_apart(file.name for file in found)
        check_shards({file.name: file.path for file in found})
    except InvalidKeyError as error:
        raise ArtifactRefusedError(f"The folder holds a file whose {error.message}") from error
    except OSError as error:
        raise local_disk_error("read", Path(error.filename or directory), error) from error
    return FolderScan(
        tuple(found),
        tuple(sorted(walk.left_out)),
        detect_format({file.name: file.kind for file in found}),
    )


async def build_manifest(
    directory: Path, exclude: Sequence[str] = (), on_bytes: OnBytes | None = None
) -> Manifest:
    """Check and hash a folder, several files at a time, in threads. Raises as scan_folder.

    Cancelling stops the hashing within a chunk.
    """
    scan = await asyncio.to_thread(scan_folder, directory, exclude)
    return Manifest(tuple(await hash_files(scan.files, on_bytes)), scan.format)


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


class _Walk:
    """One walk through a folder; `left_out` grows as it goes."""

    def __init__(self, root: Path, exclude: Sequence[str], *, allow_pickle: bool) -> None:
        self._root = root
        self._homes = (root, *_hub_blobs(root))
        self._exclude = exclude
        self._allow_pickle = allow_pickle
        self.left_out: list[str] = []

    def files(self) -> Iterator[FoundFile]:
        """Yield the files, checked, in any order."""
        for count, file in enumerate(self._below(self._root), start=1):
            if count > MAX_FILES:
                raise ArtifactRefusedError(f"The folder holds more than {MAX_FILES} files.")
            yield file

    def _below(self, folder: Path) -> Iterator[FoundFile]:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                name = path.relative_to(self._root).as_posix()
                if self._is_left_out(name, entry.name):
                    self.left_out.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    yield from self._below(path)
                else:
                    target = self._target(path, name) if entry.is_symlink() else path
                    yield self._found(target, name)

    def _is_left_out(self, name: str, bare: str) -> bool:
        if bare.startswith(".") or bare in _SKIPPED_NAMES:
            return True
        return any(fnmatch(name, glob) or fnmatch(bare, glob) for glob in self._exclude)

    def _target(self, path: Path, name: str) -> Path:
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise ArtifactRefusedError(f"{name} is a link that leads nowhere.") from None
        if not any(target.is_relative_to(home) for home in self._homes):
            raise ArtifactRefusedError(f"{name} is a link that leaves the folder.")
        if target.is_dir():
            raise ArtifactRefusedError(
                f"{name} is a link to a folder; put the files there instead."
            )
        return target

    def _found(self, path: Path, name: str) -> FoundFile:
        check_file_name(name)
        status = path.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactRefusedError(f"{name} is {_kind_of(status.st_mode)}, not a regular file.")
        kind = check_content(path, name, allow_pickle=self._allow_pickle)
        return FoundFile(name, path, status.st_size, status.st_mtime_ns, kind)


def _hub_blobs(root: Path) -> tuple[Path, ...]:
    """Where the links of `…/hub/models--org--name/snapshots/<commit>` may lead, else nothing."""
    repository = root.parent.parent
    if root.parent.name != "snapshots" or not repository.name.startswith("models--"):
        return ()
    return (repository / "blobs", repository.parent / "blobs")


def _kind_of(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "special")
