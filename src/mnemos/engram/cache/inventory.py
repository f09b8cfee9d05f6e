"""What lies in a cache right now, read from the disk: there is no index that could be wrong."""

from __future__ import annotations

import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .layout import Layout, entries_of
from .marker import Marker, read_marker
from .plans import Plan, live_plans

_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own
_PAGE_BYTES = 4096
_LINK_BYTES = 256
_MARKER_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model's folder."""

    family: str
    version: str
    folder: Path
    marker: Marker | None
    """None: it cannot be read, and the folder is of no use."""
    last_used: float
    """Seconds since the epoch."""
    own_bytes: int
    """What it takes besides the blobs."""

    @property
    def name(self) -> str:
        """`family:version`."""
        return f"{self.family}:{self.version}"

    @property
    def sha256s(self) -> frozenset[str]:
        """The blobs it is made of."""
        return self.marker.sha256s if self.marker is not None else frozenset()


@dataclass(slots=True)
class Inventory:
    """Everything in the cache, in bytes that the disk gives for it."""

    total_bytes: int = 0
    blobs: dict[str, int] = field(default_factory=dict)
    partials: dict[str, int] = field(default_factory=dict)
    """By the SHA-256 that their names begin with; journals included."""
    models: list[CachedModel] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)

    @property
    def references(self) -> Counter[str]:
        """How many models and running loads are made of each blob."""
        wanted: Counter[str] = Counter()
        for model in self.models:
            wanted.update(model.sha256s)
        for plan in self.plans:
            wanted.update(plan.sizes.keys())
        return wanted

    @property
    def orphans(self) -> list[str]:
        """The blobs that nothing is made of."""
        references = self.references
        return [sha256 for sha256 in self.blobs if not references[sha256]]

    @property
    def idle_partials(self) -> list[str]:
        """The unfinished files that no running load brings."""
        claimed = {sha256 for plan in self.plans for sha256 in plan.claims}
        return [sha256 for sha256 in self.partials if sha256 not in claimed]

    def still_coming(self) -> int:
        """Return the bytes that running loads will yet take, those of markers included."""
        claimed = {s: plan.sizes.get(s, 0) for plan in self.plans for s in plan.claims}
        files = sum(
            max(0, _whole_pages(size) - self.partials.get(sha256, 0))
            for sha256, size in claimed.items()
            if sha256 not in self.blobs
        )
        return files + sum(_MARKER_BYTES + _LINK_BYTES * len(plan.files) for plan in self.plans)


def take_inventory(layout: Layout) -> Inventory:
    """Read the whole cache. Blocks; to be called under the cache's lock."""
    found = Inventory(plans=live_plans(layout))
    seen: set[tuple[int, int]] = set()
    for blob in layout.all_blobs():
        found.blobs[blob.name] = _allocated(blob, seen)
    for path in entries_of(layout.partials):
        sha256 = path.name[:64]
        found.partials[sha256] = found.partials.get(sha256, 0) + _allocated(path, seen)
    for family, version, folder in layout.models():
        marker = read_marker(folder)
        size = sum(_allocated(path, seen) for path in _below(folder))
        used = last_used(folder)
        found.models.append(CachedModel(family, version, folder, marker, used, size))
    others = sum(
        _allocated(path, seen)
        for folder in (layout.staging, layout.trash, layout.lock_file.parent)
        for path in _below(folder)
    )
    found.total_bytes = (
        sum(found.blobs.values())
        + sum(found.partials.values())
        + sum(model.own_bytes for model in found.models)
        + others
    )
    return found


def last_used(folder: Path) -> float:
    """Return when a model was used last, in seconds since the epoch."""
    for path in (folder / ".manifest.json", folder):
        try:
            return path.lstat().st_mtime
        except OSError:
            continue
    return 0.0


def free_bytes(root: Path) -> tuple[int, int]:
    """Return how much of the disk is free, and how much there is."""
    usage = shutil.disk_usage(root)
    return usage.free, usage.total


def _whole_pages(size: int) -> int:
    return -(-size // _PAGE_BYTES) * _PAGE_BYTES


def _below(folder: Path) -> Iterator[Path]:
    for path in entries_of(folder):
        yield path
        try:
            if stat.S_ISDIR(path.lstat().st_mode):
                yield from _below(path)
        except OSError:
            continue


def _allocated(path: Path, seen: set[tuple[int, int]]) -> int:
    """What a file takes, once for all its names; a folder's own bytes are not counted."""
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    if not stat.S_ISREG(status.st_mode):
        return 0
    if status.st_nlink > 1:
        place = (status.st_dev, status.st_ino)
        if place in seen:
            return 0
        seen.add(place)
    return max(status.st_size, status.st_blocks * _BLOCK_BYTES)
