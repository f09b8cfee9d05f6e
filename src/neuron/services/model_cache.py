"""Where models' files lie on this machine: complete and verified, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

import msgspec
import structlog

from mnemos.engram.digest import manifest_checksum

from ..clients.engram_client import RemoteFile
from ..errors import ArtifactCorruptError, InvalidInputError, NeuronError

logger = structlog.get_logger(__name__)

MARKER = ".manifest.json"
STAGING = ".staging"
LOCKS = ".locks"
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_PATH = 1024


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model's files, and where ENGRAM keeps them."""

    bucket: str
    artifact_path: str
    files: tuple[RemoteFile, ...]
    digest: str

    @property
    def total_bytes(self) -> int:
        """What the files take on disk."""
        return sum(file.size for file in self.files)


class _Marker(msgspec.Struct, frozen=True):
    digest: str
    files: list[tuple[str, int]]


class ModelCache:
    """A folder of models; `{family}:{version}` is a model's key.

    Methods read and write files: call them in threads. A model's folder appears by one rename,
    when everything in it is verified and durable.
    """

    def __init__(self, cache_dir: str | Path) -> None:
        self.cache_dir = Path(cache_dir)
        self._owner = f"{os.getpid()}-{uuid4().hex[:8]}"

    def get(self, model_key: str, digest: str | None = None) -> Path | None:
        """Return a cached model's folder; None if it is absent, incomplete or has another digest.

        Cheap: sizes are compared, contents are not read again.
        """
        folder = self.folder(*split_key(model_key))
        try:
            marker = msgspec.json.decode((folder / MARKER).read_bytes(), type=_Marker)
            whole = all((folder / path).stat().st_size == size for path, size in marker.files)
        except (OSError, msgspec.MsgspecError):
            return None
        return folder if whole and (digest is None or marker.digest == digest) else None

    def digest(self, model_key: str) -> str | None:
        """Return the digest of a cached model, "sha256:<hex>"; None if it is not here whole."""
        folder = self.get(model_key)
        if folder is None:
            return None
        return msgspec.json.decode((folder / MARKER).read_bytes(), type=_Marker).digest

    def set(self, model_key: str, model_path: Path, manifest: Manifest | None = None) -> Path:
        """Make `model_path`, a staging folder, the model's folder in place of any other."""
        manifest = manifest or manifest_of_folder(model_path)
        target = self.folder(*split_key(model_key))
        marker = _Marker(manifest.digest, [(file.path, file.size) for file in manifest.files])
        _write_durably(model_path / MARKER, msgspec.json.encode(marker))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            # An engine may still read the old files: their folder goes, the open files stay.
            old = self.new_staging()
            target.rename(old / "replaced")
            model_path.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            model_path.rename(target)
        _sync_folder(target.parent)
        return target

    def folder(self, family: str, version: str) -> Path:
        """Return where a model lies or would lie.

        Raises:
            InvalidInputError: a name that could lead out of the cache.
        """
        for what, name in (("family", family), ("version", version)):
            if not _SAFE_NAME.fullmatch(name) or ".." in name:
                raise InvalidInputError(
                    f"the model's {what} {name!r} is not a name: use letters, digits, '.', '_', '-'"
                )
        return self.cache_dir / family / version

    def new_staging(self) -> Path:
        """Make a folder to download into; it is this process's to remove."""
        folder = self.cache_dir / STAGING / f"{self._owner}-{uuid4().hex[:8]}"
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise NeuronError(
                f"the model cache {self.cache_dir} cannot be written: {error.strerror}"
            ) from error
        return folder

    def remove_strays(self) -> int:
        """Remove what dead processes left half downloaded; return how many folders."""
        removed = 0
        with contextlib.suppress(OSError):
            for folder in list((self.cache_dir / STAGING).iterdir()):
                pid = folder.name.partition("-")[0]
                if not pid.isdigit() or not Path(f"/proc/{pid}").exists():
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
        if removed:
            logger.info("stray_downloads_removed", count=removed)
        return removed

    @contextlib.contextmanager
    def try_lock(self, model_key: str) -> Iterator[bool]:
        """Hold the model's lock among processes, if it is free; it ends with its process."""
        folder = self.cache_dir / LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / model_key.replace(":", "@"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)


def split_key(model_key: str) -> tuple[str, str]:
    """Return family and version of `family:version`."""
    family, _, version = model_key.partition(":")
    return family, version


def parse_manifest(metadata: dict[str, Any], family: str, version: str) -> Manifest:
    """Read GENOME's metadata; nothing in it is trusted.

    Raises:
        ArtifactCorruptError: it names no files, or files that could leave their folder.
    """
    artifact = metadata.get("artifact")
    artifact = artifact if isinstance(artifact, dict) else {}
    path = metadata.get("artifact_path") or artifact.get("path")
    listed = metadata.get("files")
    if not isinstance(path, str) or not isinstance(listed, list) or not listed:
        raise ArtifactCorruptError(f"GENOME names no files for {family}:{version}")
    _check_path(path, family, version)
    files = tuple(_file(entry, family, version) for entry in listed)
    if len({file.path for file in files}) != len(files):
        raise ArtifactCorruptError(f"GENOME names a file of {family}:{version} twice")
    bucket = artifact.get("bucket")
    return Manifest(bucket if isinstance(bucket, str) else "", path, files, _digest(files))


def _file(entry: Any, family: str, version: str) -> RemoteFile:
    path, size, sha256 = (
        (entry.get("path"), entry.get("size"), entry.get("sha256"))
        if isinstance(entry, dict)
        else (None, None, None)
    )
    if not (isinstance(path, str) and isinstance(size, int) and size >= 0):
        raise ArtifactCorruptError(f"GENOME's manifest of {family}:{version} cannot be read")
    if not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise ArtifactCorruptError(f"GENOME's manifest of {family}:{version} lacks a sha256")
    _check_path(path, family, version)
    if PurePosixPath(path).parts[0] == MARKER:
        raise ArtifactCorruptError(f"{family}:{version} has a file named {MARKER}")
    return RemoteFile(path, size, sha256)


def _check_path(path: str, family: str, version: str) -> None:
    parts = PurePosixPath(path).parts
    unsafe = (
        not parts
        or path.startswith("/")
        or len(path) > _MAX_PATH
        or ".." in parts
        or "\\" in path
        or "\0" in path
    )
    if unsafe:
        raise ArtifactCorruptError(
            f"the manifest of {family}:{version} names {path[:200]!r}, which leaves its folder"
        )


def _digest(files: tuple[RemoteFile, ...]) -> str:
    return manifest_checksum((file.path, file.size, file.sha256) for file in files)


def manifest_of_folder(folder: Path) -> Manifest:
    """Return what lies in a folder, by sizes only (files that came without a manifest)."""
    files = tuple(
        RemoteFile(file.relative_to(folder).as_posix(), file.stat().st_size)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MARKER
    )
    return Manifest("", "", files, _digest(files))


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
