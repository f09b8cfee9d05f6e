"""A folder for one worker process: found again after a crash, never shared by two."""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path

MOST_WORKERS = 256


@dataclass(slots=True)
class Place:
    """A folder that this process alone uses until release(), or until it dies, however it does."""

    folder: Path
    _lock: int | None

    @classmethod
    def take(cls, root: Path, name: str) -> Place:
        """Take a free folder `name`-1, `name`-2, … below `root`: the last used, or else a new one.

        So each of several workers on a machine has its own, and a worker that starts again has
        that of the one that died. Raises OSError.
        """
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in _candidates(root, name):
            folder.mkdir(exist_ok=True, mode=0o700)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            except BaseException:
                os.close(lock)
                raise
            else:
                return cls(folder, lock)
        raise OSError(f"{MOST_WORKERS} other workers use {root}")

    def release(self) -> None:
        """Let another process have the folder. May be called twice."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def _candidates(root: Path, name: str) -> list[Path]:
    pattern = re.compile(re.escape(name) + r"-[0-9]+")
    known = [folder for folder in root.iterdir() if pattern.fullmatch(folder.name)]
    known.sort(key=_last_used, reverse=True)
    new = (root / f"{name}-{number}" for number in range(1, MOST_WORKERS + 1))
    return [*known, *(folder for folder in new if folder not in known)]


def _last_used(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.glob("*.db*")), default=0.0)
