"""Where everything lies in a cache, and which names may lie there.

    <root>/<family>/<version>/…       a model's files: links to blobs, and its marker
    <root>/.blobs/<2 hex>/<sha256>    the files themselves, each once, read-only
    <root>/.partial/<sha256>          a file that is still coming; its journal lies beside it
    <root>/.staging/<load>[.plan]     a model that is being put together, and by whom
    <root>/.trash/<id>                what is being removed
    <root>/.locks/cache               held for moments, by whoever changes any of it

A family's name begins with a letter or a digit, so that no model can be called like the rest.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import LocalDiskError
from ..files import local_disk_error
from ..keys import check_name

MARKER = ".manifest.json"
PLAN_SUFFIX = ".plan"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of the cache at `root`."""

    root: Path

    @property
    def blobs(self) -> Path:
        """Where complete files lie, in folders by their first two digits."""
        return self.root / ".blobs"

    @property
    def partials(self) -> Path:
        """Where files lie that are still coming."""
        return self.root / ".partial"

    @property
    def staging(self) -> Path:
        """Where models are put together, and where the plans of loads lie."""
        return self.root / ".staging"

    @property
    def trash(self) -> Path:
        """Where things go before they are removed."""
        return self.root / ".trash"

    @property
    def lock_file(self) -> Path:
        """What is locked for every change."""
        return self.root / ".locks" / "cache"

    def blob(self, sha256: str) -> Path:
        """Return where the file with this SHA-256 lies or would lie."""
        return self.blobs / sha256[:2] / sha256

    def folder(self, family: str, version: str) -> Path:
        """Return where a model lies or would lie.

        Raises InvalidKeyError for names that could lead elsewhere, and LocalDiskError where
        somebody has put a symbolic link in the family's place.
        """
        check_name(family, "family")
        check_name(version, "version")
        if is_link(self.root / family):
            raise LocalDiskError(
                f"{self.root / family} is a symbolic link, and a cache follows none: remove it."
            )
        return self.root / family / version

    def make(self) -> None:
        """Make the cache's own folders. Raises LocalDiskError."""
        try:
            for folder in (self.blobs, self.partials, self.staging, self.trash):
                folder.mkdir(parents=True, exist_ok=True)
            self.lock_file.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise local_disk_error("write the model cache at", self.root, error) from error
        for folder in (
            self.blobs,
            self.partials,
            self.staging,
            self.trash,
            self.lock_file.parent,
        ):
            if is_link(folder):
                raise LocalDiskError(
                    f"{folder} is a symbolic link, and a cache follows none: remove it."
                )

    def models(self) -> Iterator[tuple[str, str, Path]]:
        """Yield family, version and folder of whatever lies in a model's place."""
        for family in _folders(self.root):
            for version in _folders(family):
                yield family.name, version.name, version

    def all_blobs(self) -> Iterator[Path]:
        """Yield every complete file."""
        for folder in _entries(self.blobs):
            for blob in _entries(folder):
                if _SHA256.fullmatch(blob.name):
                    yield blob


def is_link(path: Path) -> bool:
    """Whether a symbolic link lies at `path`; False for nothing."""
    return path.is_symlink()


def is_file(path: Path, size: int | None = None) -> bool:
    """Whether a regular file, and no link to one, lies at `path` (and has `size` bytes)."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and (size is None or status.st_size == size)


def _folders(parent: Path) -> Iterator[Path]:
    return (path for path in _entries(parent) if path.name[0].isalnum() and _is_folder(path))


def _is_folder(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISDIR(path.lstat().st_mode)
    return False


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name; nothing where there is none, or a link to one."""
    if is_link(folder):
        return []
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries)
    except OSError:
        return []


entries_of = _entries


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
