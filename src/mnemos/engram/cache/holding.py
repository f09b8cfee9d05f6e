"""A model in use: nobody on this machine removes it before the hold is closed."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from .layout import MARKER, Layout
from .locks import try_lock
from .marker import Marker, is_whole, open_marker, read_open_marker

_TRIES = 200
_PAUSE_SECONDS = 0.005


class Hold:
    """A shared lock on a model's marker; many may hold one model. Ends with the process."""

    def __init__(self, path: Path, marker: Marker, handle: int) -> None:
        self.path = path
        """The folder of the model's files."""
        self.digest = "" if marker.is_old else marker.digest
        """The model's digest; empty where the first layout kept none of this kind."""
        self.marker = marker
        self._handle = handle

    @property
    def is_current(self) -> bool:
        """Whether the folder still is the one that is held, and not a version put in its place."""
        return self._handle >= 0 and _is_still_there(self._handle, self.path)

    def close(self) -> None:
        """Let go. May be called twice."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            _touch(handle)  # what was used longest ago goes first: a use counts to its end
            os.close(handle)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go."""
        self.close()


def hold(layout: Layout, folder: Path, digest: str | None = None) -> Hold | None:
    """Hold the model in `folder` if it is there, whole, with this digest, and not just leaving."""
    for _ in range(_TRIES):
        try:
            handle = open_marker(folder)
        except OSError:
            return None
        held = None
        try:
            if try_lock(handle, shared=True):
                held = _hold_locked(layout, folder, handle, digest)
                return held
        finally:
            if held is None:
                os.close(handle)
        time.sleep(_PAUSE_SECONDS)  # somebody looks whether it is in use, or moves it away
    return None


def _hold_locked(layout: Layout, folder: Path, handle: int, digest: str | None) -> Hold | None:
    marker = read_open_marker(handle)
    if marker is None or digest not in (None, marker.digest):
        return None
    if not _is_still_there(handle, folder) or not is_whole(layout, folder, marker):
        return None
    _touch(handle)
    return Hold(folder, marker, handle)


def try_free(folder: Path) -> int | None:
    """Lock a model alone, so that it may be moved: a descriptor to be closed, -1 if it has no
    marker to be locked, None while it is in use."""
    try:
        handle = open_marker(folder)
    except OSError:
        return -1
    if try_lock(handle):
        return handle
    os.close(handle)
    return None


def is_in_use(folder: Path) -> bool:
    """Whether somebody holds the model now."""
    handle = try_free(folder)
    if handle is not None and handle >= 0:
        os.close(handle)
    return handle is None


def _is_still_there(handle: int, folder: Path) -> bool:
    """Whether the marker that is locked is the one that lies there: not one moved away since."""
    try:
        return os.path.samestat(os.fstat(handle), (folder / MARKER).lstat())
    except OSError:
        return False


def _touch(handle: int) -> None:
    with contextlib.suppress(OSError):
        os.utime(handle)
