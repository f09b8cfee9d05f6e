"""Removes models and blobs so that a crash at any point leaves what the next start can finish.

A model goes to the trash by one rename; then the blobs that only it was made of are removed, then
its folder, the marker last. To be called under the cache's lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from ..files import local_disk_error
from .holding import try_free
from .layout import MARKER, Layout, entries_of
from .marker import read_marker


def throw_away(layout: Layout, path: Path) -> Path:
    """Move what lies at `path` to the trash, a link as itself. Raises LocalDiskError."""
    place = layout.trash / uuid4().hex
    try:
        layout.trash.mkdir(exist_ok=True)
        path.rename(place)
    except OSError as error:
        raise local_disk_error("remove", path, error) from error
    return place


def throw_away_if_free(layout: Layout, folder: Path) -> bool:
    """Move a model to the trash unless somebody holds it. Raises LocalDiskError."""
    handle = try_free(folder)
    if handle is None:
        return False
    try:
        throw_away(layout, folder)
    finally:
        if handle >= 0:
            os.close(handle)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()  # unless the family has other versions
    return True


def empty_trash(layout: Layout, needed: Iterable[str]) -> None:
    """Remove what is in the trash, with the blobs that it was made of and that are not `needed`.

    What cannot be removed stays for the next time.
    """
    kept = frozenset(needed)
    for path in entries_of(layout.trash):
        if path.is_symlink() or not path.is_dir():
            with contextlib.suppress(OSError):
                path.unlink()
            continue
        marker = read_marker(path)
        for sha256 in marker.sha256s - kept if marker is not None else ():
            remove_blob(layout, sha256)
        _remove_folder(path)


def remove_blob(layout: Layout, sha256: str) -> None:
    """Remove a blob and, if it was the last one there, its folder. Never fails."""
    blob = layout.blob(sha256)
    with contextlib.suppress(OSError):
        blob.unlink()
    with contextlib.suppress(OSError):
        blob.parent.rmdir()


def remove_partial(layout: Layout, sha256: str) -> None:
    """Remove an unfinished file, whoever began it, and its journal. Never fails."""
    for path in entries_of(layout.partials):
        if path.name.startswith(sha256):
            remove_tree(path)


def remove_tree(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it. Never fails."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()


def _remove_folder(folder: Path) -> None:
    """Remove a model's folder, its marker last: it says which blobs were to go."""
    for path in entries_of(folder):
        if path.name != MARKER:
            remove_tree(path)
    remove_tree(folder)
