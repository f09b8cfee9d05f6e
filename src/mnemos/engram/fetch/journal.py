"""Which bytes of an unfinished file have been written: what lets a fetch go on after a crash.

One number per part, in place: how many of its bytes are there. The number is written after the
bytes, so that it is never ahead of them when a process dies. When a machine dies it may be, as
nothing is synced; the SHA-256 of the whole file tells then, and the file is fetched anew.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_HEADER = struct.Struct("<16s64sQQ")
_MAGIC = b"mnemos-fetch 1\n"
_COUNT = struct.Struct("<Q")
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Journal:
    """The journal of one file; open until `remove()` or `close()`. Blocks; raises OSError."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def create(cls, path: Path, header: bytes, parts: int) -> Self:
        """Write a journal of nothing, in place of whatever is at `path`."""
        path.unlink(missing_ok=True)
        descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.pwrite(descriptor, header + bytes(parts * _COUNT.size), 0)
        except OSError:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the journal that is there."""
        return cls(path, os.open(path, _FLAGS))

    def write(self, index: int, count: int) -> None:
        """Say that `count` bytes of the part `index` are written."""
        os.pwrite(self._descriptor, _COUNT.pack(count), _HEADER.size + index * _COUNT.size)

    def remove(self) -> None:
        """The file is whole, or will start anew: no journal any more."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close it; what it says stays. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def header(sha256: str, size: int, part_bytes: int) -> bytes:
    """What a journal begins with: it is of use for this content in these parts alone."""
    return _HEADER.pack(_MAGIC, sha256.encode(), size, part_bytes)


def read_counts(path: Path, expected: bytes, lengths: Sequence[int]) -> list[int] | None:
    """Return how much of each part is written; None if there is no journal that says it.

    A journal that is torn, or of other parts, counts as none.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    counts_at = len(expected)
    if data[:counts_at] != expected or len(data) != counts_at + len(lengths) * _COUNT.size:
        return None
    counts = [count for (count,) in _COUNT.iter_unpack(data[counts_at:])]
    fits = all(count <= length for count, length in zip(counts, lengths, strict=True))
    return counts if fits else None
