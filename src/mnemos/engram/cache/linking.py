"""Puts a model's folder together out of blobs, and into its place by one rename.

Hard links; symbolic ones where the file system has none. To be called under the cache's lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..files import local_disk_error
from ..manifest import ManifestFile
from .layout import MARKER, Layout, is_file, is_link, sync_folder
from .marker import Marker, is_right, link_target, read_marker
from .removing import remove_tree, throw_away

_NO_HARD_LINKS = {
    errno.EPERM,
    errno.EACCES,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EXDEV,
}


def install(layout: Layout, staging: Path, target: Path, files: Sequence[ManifestFile]) -> None:
    """Make `target` the folder of these files, whose blobs are all here, whatever was there.

    What was there with the same digest is mended in its place, so that engines which read it see
    no gap; anything else goes to the trash. Raises LocalDiskError.
    """
    marker = Marker.of(tuple(files))
    try:
        staging.mkdir(exist_ok=True)
        target.parent.mkdir(exist_ok=True)
        if read_marker(target) == marker and not is_link(target):
            _mend(layout, staging, target, marker)
        else:
            _build(layout, staging, target, marker)
            if os.path.lexists(target):
                throw_away(layout, target)
            staging.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise local_disk_error("write", Path(error.filename or target), error) from error
    finally:
        remove_tree(staging)


def _build(layout: Layout, staging: Path, target: Path, marker: Marker) -> None:
    folders = {staging}
    for file in marker.files:
        place = staging / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        folders.update(staging / parent for parent in PurePosixPath(file.path).parents)
        _link(layout, place, target, file)
    _write_durably(staging / MARKER, marker.encode())
    for folder in folders:
        sync_folder(folder)


def _mend(layout: Layout, staging: Path, target: Path, marker: Marker) -> None:
    for parent in _parents(marker):
        folder = target / parent
        if is_link(folder) or (folder.exists() and not folder.is_dir()):
            throw_away(layout, folder)
        folder.mkdir(exist_ok=True)
    for file in marker.files:
        if not is_right(layout, target, file):
            fresh = staging / "file"
            _link(layout, fresh, target, file)
            if (target / file.path).is_dir() and not is_link(target / file.path):
                throw_away(layout, target / file.path)
            fresh.replace(target / file.path)
            sync_folder((target / file.path).parent)


def _parents(marker: Marker) -> list[str]:
    found = {str(parent) for file in marker.files for parent in PurePosixPath(file.path).parents}
    return sorted(found - {"."})


def _link(layout: Layout, place: Path, target: Path, file: ManifestFile) -> None:
    try:
        place.hardlink_to(layout.blob(file.sha256))
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        place.symlink_to(link_target(layout, target, file))


def adopt_file(layout: Layout, path: Path, sha256: str) -> None:
    """Make a complete, verified and durable file the blob of its SHA-256. Raises OSError."""
    blob = layout.blob(sha256)
    blob.parent.mkdir(parents=True, exist_ok=True)
    path.chmod(0o444)
    path.replace(blob)


def share_file(layout: Layout, path: Path, sha256: str) -> bool:
    """Make a verified file that lies in a model's folder a blob as well; False if it cannot be."""
    blob = layout.blob(sha256)
    with contextlib.suppress(OSError):
        blob.parent.mkdir(parents=True, exist_ok=True)
        if blob.exists() and not is_file(blob, path.lstat().st_size):
            blob.unlink()
        os.link(path, blob, follow_symlinks=False)
        blob.chmod(0o444)
    return is_file(blob)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
