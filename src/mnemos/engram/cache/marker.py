"""The marker in a model's folder: which files make the model. It is written last."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..digest import manifest_checksum
from ..manifest import ManifestFile
from .layout import MARKER, Layout

LAYOUT_VERSION = 2
_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Marker:
    """A model's files and their digest ("sha256:<hex>", see manifest_checksum).

    A marker of the first layout knew no file's SHA-256: `files` has empty ones then, the files
    are no links, and its digest is of another kind.
    """

    digest: str
    files: tuple[ManifestFile, ...]

    @classmethod
    def of(cls, files: tuple[ManifestFile, ...]) -> Marker:
        """Return the marker of a model that has these files."""
        return cls(manifest_checksum((file.path, file.size, file.sha256) for file in files), files)

    @property
    def is_old(self) -> bool:
        """Whether it is one of the first layout."""
        return any(not file.sha256 for file in self.files)

    @property
    def sha256s(self) -> frozenset[str]:
        """The blobs that the model is made of."""
        return frozenset(file.sha256 for file in self.files if file.sha256)

    def encode(self) -> bytes:
        """Return it as the bytes of a marker file."""
        files = [[file.path, file.size, file.sha256] for file in self.files]
        told = {"layout": LAYOUT_VERSION, "digest": self.digest, "files": files}
        return json.dumps(told, ensure_ascii=False).encode()


def decode_marker(content: bytes) -> Marker | None:
    """Read a marker file's bytes, of either layout; None if it is damaged."""
    try:
        told = json.loads(content)
        files = tuple(_file(entry) for entry in told["files"])
        digest = told["digest"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(digest, str) or not files:
        return None
    marker = Marker(digest, files)
    return marker if marker.is_old or marker == Marker.of(files) else None


def _file(entry: Any) -> ManifestFile:
    path, size, sha256 = (*entry, "")[:3]
    parts = PurePosixPath(path).parts
    if not isinstance(size, int) or not isinstance(sha256, str) or "\0" in path:
        raise TypeError
    if path.startswith("/") or not parts or ".." in parts:
        raise ValueError
    return ManifestFile(path, size, sha256)


def read_marker(folder: Path) -> Marker | None:
    """Return the marker of a model's folder; None if there is none that can be read."""
    try:
        handle = open_marker(folder)
    except OSError:
        return None
    try:
        return read_open_marker(handle)
    finally:
        os.close(handle)


def open_marker(folder: Path) -> int:
    """Open a folder's marker, to be locked; read-only where it cannot be written. OSError."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(folder / MARKER, os.O_RDWR | flags)
    except PermissionError:
        return os.open(folder / MARKER, os.O_RDONLY | flags)
    except OSError as error:
        if error.errno != 30:  # a read-only file system
            raise
        return os.open(folder / MARKER, os.O_RDONLY | flags)


def read_open_marker(handle: int) -> Marker | None:
    """Return the marker behind a descriptor; None if it is damaged."""
    try:
        return decode_marker(os.pread(handle, _MOST_BYTES, 0))
    except OSError:
        return None


def is_whole(layout: Layout, folder: Path, marker: Marker) -> bool:
    """Whether all of a model's files are in its folder, by kind and size; none is read."""
    parents = {parent for file in marker.files for parent in PurePosixPath(file.path).parents}
    return all(_is_folder(folder / parent) for parent in parents) and all(
        is_right(layout, folder, file) for file in marker.files
    )


def is_right(layout: Layout, folder: Path, file: ManifestFile) -> bool:
    """Whether one file is there: with its size, or as a symbolic link to its own blob."""
    path = folder / file.path
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            blob = layout.blob(file.sha256)
            if not file.sha256 or path.readlink() != link_target(layout, folder, file):
                return False
            status = blob.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == file.size


def link_target(layout: Layout, folder: Path, file: ManifestFile) -> Path:
    """Return what a symbolic link at the file's place names: its blob, from there."""
    return Path(os.path.relpath(layout.blob(file.sha256), (folder / file.path).parent))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False
