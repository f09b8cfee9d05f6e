"""Reads cached files again, and takes out those whose bytes are no longer right."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..manifest import ManifestFile
from .hashing import sha256_of
from .inventory import CachedModel, take_inventory
from .layout import Layout, is_file
from .locks import try_lock
from .marker import Marker, is_right, open_marker, read_open_marker

_Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of a cached model that is not what its marker says."""

    model: str
    """`family:version`."""
    path: str
    problem: str
    """`missing`, `wrong size` or `wrong bytes`."""
    sha256: str
    inode: _Inode | None = None
    """Which file it is; None where there is none."""


def verify(
    layout: Layout, name: str, folder: Path, stop: threading.Event | None = None
) -> list[Damage]:
    """Return what is wrong with a model, by reading all of it. Blocks for as long as that takes.

    The model stays meanwhile. Of a model of the first layout only the sizes are known. Raises
    hashing.Stopped once `stop` is set.
    """
    try:
        handle = open_marker(folder)
    except OSError:
        return [Damage(name, ".manifest.json", "missing", "")]
    try:
        try_lock(handle, shared=True)
        marker = read_open_marker(handle)
        if marker is None:
            return [Damage(name, ".manifest.json", "wrong bytes", "")]
        return list(_damages(layout, name, folder, marker, stop))
    finally:
        os.close(handle)


def _damages(
    layout: Layout, name: str, folder: Path, marker: Marker, stop: threading.Event | None
) -> Iterator[Damage]:
    known: dict[_Inode, str] = {}
    for file in marker.files:
        problem, inode = _problem(layout, folder, file, known, stop)
        if problem:
            yield Damage(name, file.path, problem, file.sha256, inode)


def _problem(
    layout: Layout,
    folder: Path,
    file: ManifestFile,
    known: dict[_Inode, str],
    stop: threading.Event | None,
) -> tuple[str, _Inode | None]:
    path = folder / file.path
    if path.is_symlink():
        path = layout.blob(file.sha256)
    try:
        status = path.lstat()
        inode = status.st_dev, status.st_ino
        if not is_right(layout, folder, file):
            return "wrong size", inode
        if not file.sha256:
            return "", None
        if inode not in known:
            known[inode] = sha256_of(path, stop)
    except OSError as error:
        return ("missing" if isinstance(error, FileNotFoundError) else "wrong bytes"), None
    return ("" if known[inode] == file.sha256 else "wrong bytes"), inode


def take_out(layout: Layout, damages: Sequence[Damage]) -> set[str]:
    """Remove the damaged files, from every model that has them; return the models' names.

    Engines that have such a file open keep it. The next load of each model brings what is
    lacking. To be called under the cache's lock.
    """
    affected = {damage.model for damage in damages}
    bad = {damage.inode for damage in damages if damage.inode is not None}
    for sha256 in {damage.sha256 for damage in damages if damage.sha256}:
        _unlink_if(layout.blob(sha256), bad)
    for model in take_inventory(layout).models:
        for file in model.marker.files if model.marker is not None else ():
            if _unlink_if(model.folder / file.path, bad) or _dangles(layout, model, file):
                affected.add(model.name)
    return affected


def _dangles(layout: Layout, model: CachedModel, file: ManifestFile) -> bool:
    path = model.folder / file.path
    return path.is_symlink() and not is_file(layout.blob(file.sha256))


def _unlink_if(path: Path, inodes: set[_Inode]) -> bool:
    with contextlib.suppress(OSError):
        status = path.lstat()
        if (status.st_dev, status.st_ino) in inodes:
            path.unlink()
            return True
    return False
