"""What processes hold of memory, and which belong together; nothing but /proc is read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def private_bytes(pid: int) -> int:
    """Memory that a process and all its descendants hold for themselves, in bytes.

    That is what is resident without files and shared memory, so weights mapped from a file count
    once they were copied. Processes that end meanwhile count as nothing; so does one that never
    was. Takes well under a millisecond for each process.
    """
    return sum(_own_bytes(each) for each in _family(pid))


def child_pids(pid: int) -> list[int]:
    """The children of a process, those of all its threads; none if it is gone.

    A child may be missed while another one ends.
    """
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            found += map(int, _read(thread / "children").split())
    return found


def _family(pid: int) -> Iterator[int]:
    seen = {pid}
    waiting = [pid]
    while waiting:
        yield (one := waiting.pop())
        new = [child for child in child_pids(one) if child not in seen]
        seen.update(new)
        waiting += new


def _own_bytes(pid: int) -> int:
    fields = _read(_PROC / str(pid) / "statm").split()
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES if fields else 0


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except OSError:
        return ""  # it has just ended
