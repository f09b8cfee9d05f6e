"""The files that are downloaded: one very big, some big, and many small ones."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
BUCKET = "bench"
PREFIX = "model"
_BLOCK_BYTES = 64 * MIB


@dataclass(frozen=True)
class Sizes:
    """Of a model's files, in bytes."""

    sizes: tuple[int, ...]

    @property
    def total(self) -> int:
        """All together."""
        return sum(self.sizes)


FULL = Sizes((2048 * MIB, *[256 * MIB] * 4, *(MIB + 1000 * n for n in range(40))))
SMALL = Sizes((256 * MIB, *[32 * MIB] * 4, *(MIB // 8 + 1000 * n for n in range(40))))


def make(root: Path, sizes: Sizes) -> Path:
    """Write the files below root/BUCKET/PREFIX, and their list; return the list's path."""
    folder = root / BUCKET / PREFIX
    folder.mkdir(parents=True)
    block = os.urandom(_BLOCK_BYTES)
    files = []
    for number, size in enumerate(sizes.sizes):
        digest = hashlib.sha256()
        name = f"part-{number:02}.bin"
        with (folder / name).open("wb") as file:
            for piece in _pieces(block, number, size):
                digest.update(piece)
                file.write(piece)
        files.append({"key": f"{PREFIX}/{name}", "size": size, "sha256": digest.hexdigest()})
    listed = root / "files.json"
    listed.write_text(json.dumps(files))
    return listed


def _pieces(block: bytes, number: int, size: int) -> Iterator[bytes]:
    """Random bytes, no two MiB of which are the same."""
    for start in range(0, size, MIB):
        count = min(MIB, size - start)
        at = start % _BLOCK_BYTES
        yield (f"{number:8}{start:16}".encode() + block[at + 24 : at + MIB])[:count]
