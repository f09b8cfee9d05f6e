"""Where vLLM's processes keep sockets, files and shared memory, and how none of it piles up.

They clean up after themselves, except when killed. So each engine has a folder of its own, with
a list of its shared memory in it, and clears away those of engines that are dead.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import psutil

_PREFIX = "neuron-vllm-"
_OWNER = re.compile(rf"{_PREFIX}(\d+)-")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- the kernel's name for it
_SEGMENT = re.compile(rf"{_SHARED_MEMORY}/(psm_[0-9a-f]+)")
_LIST = "shared-memory"
_BASE = Path(tempfile.gettempdir())


class Scratch:
    """This process's folder for vLLM; its path is short enough for socket names."""

    def __init__(self) -> None:
        sweep(_BASE)
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_BASE))
        for name in ("TMPDIR", "VLLM_RPC_BASE_PATH"):
            os.environ[name] = str(self.path)
        tempfile.tempdir = str(self.path)

    def note_shared_memory(self) -> None:
        """Write down what the children share, for whoever comes after a kill -9."""
        segments = set[str]()
        for child in psutil.Process().children(recursive=True):
            segments |= _segments_of(child.pid)
        (self.path / _LIST).write_text("\n".join(sorted(segments)))

    def clear(self) -> None:
        """Remove it with all in it, once vLLM's processes have ended."""
        _clear(self.path)


def sweep(folder: Path) -> None:
    """Clear away what dead engines of this user left in a folder for temporary files."""
    for path, pid in _scratches(folder):
        try:
            is_ours = path.stat().st_uid == os.getuid()
        except OSError:
            continue  # somebody else swept it
        if is_ours and not psutil.pid_exists(pid):
            _clear(path)


def _scratches(folder: Path) -> Iterable[tuple[Path, int]]:
    for path in folder.glob(f"{_PREFIX}*"):
        if (owner := _OWNER.match(path.name)) is not None:
            yield path, int(owner[1])


def _segments_of(pid: int) -> set[str]:
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return set()
    return set(_SEGMENT.findall(maps))


def _clear(scratch: Path) -> None:
    try:
        names = (scratch / _LIST).read_text().split()
    except OSError:
        names = []
    for name in names:
        if _SEGMENT.fullmatch(f"{_SHARED_MEMORY}/{name}"):
            (_SHARED_MEMORY / name).unlink(missing_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)
