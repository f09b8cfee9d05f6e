"""Reads the header of a GGUF file as far as it takes to know that the file is whole."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from .errors import ArtifactRefusedError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_TENSORS = 1_000_000
_MAX_KEYS = 100_000
_MAX_TEXT_BYTES = 64 * 1024 * 1024
_MAX_ELEMENTS = 16 * 1024 * 1024
_MAX_DIMENSIONS = 8
_MAX_DEPTH = 4
_STRING, _ARRAY = 8, 9
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_BLOCKS = {  # kind: elements in a block, its bytes
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2),
}  # fmt: skip
_ALIGNMENT_KEY = "general.alignment"
_DEFAULT_ALIGNMENT = 32


def check_gguf(path: Path, name: str) -> None:
    """Raise ArtifactRefusedError unless every tensor of the file lies in it. Blocks."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            end = _end_of_data(_Reader(file, size))
        except (struct.error, ValueError) as error:
            raise ArtifactRefusedError(
                f"{name} is damaged or cut short: its header cannot be read ({error})."
            ) from None
    if end > size:
        raise ArtifactRefusedError(
            f"{name} is damaged or cut short: its tensors end at byte {end}, and it has {size}."
        )


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def number(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self._file.read(struct.calcsize(layout)))
        return int(value)

    def count(self, most: int, what: str) -> int:
        value = self.number("<Q")
        if value > most:
            raise ValueError(f"it names {value} {what}")
        return value

    def text(self) -> str:
        length = self.count(_MAX_TEXT_BYTES, "letters")
        data = self._file.read(length)
        if len(data) != length:
            raise ValueError("it ends within a text")
        return data.decode("utf-8", "replace")

    def skip(self, length: int) -> None:
        if self._file.seek(length, 1) > self._size:
            raise ValueError("it ends within a value")

    def position(self) -> int:
        return self._file.tell()


def _end_of_data(reader: _Reader) -> int:
    if reader.number("<I") != int.from_bytes(MAGIC, "little"):
        raise ValueError("it does not start like a GGUF file")
    version = reader.number("<I")
    if version not in _VERSIONS:
        raise ValueError(f"its version is {version}")
    tensors = reader.count(_MAX_TENSORS, "tensors")
    keys = reader.count(_MAX_KEYS, "keys")
    alignment = _DEFAULT_ALIGNMENT
    for _ in range(keys):
        key, kind = reader.text(), reader.number("<I")
        if key == _ALIGNMENT_KEY and kind == 4:
            alignment = reader.number("<I")
        else:
            _skip_value(reader, kind, 0)
    if alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"its alignment is {alignment}")
    ends = [_tensor_end(reader) for _ in range(tensors)]
    start = -(-reader.position() // alignment) * alignment
    return max((start + end for end in ends), default=reader.position())


def _skip_value(reader: _Reader, kind: int, depth: int) -> None:
    if kind in _VALUE_BYTES:
        reader.skip(_VALUE_BYTES[kind])
    elif kind == _STRING:
        reader.skip(reader.count(_MAX_TEXT_BYTES, "letters"))
    elif kind == _ARRAY and depth < _MAX_DEPTH:
        inner, count = reader.number("<I"), reader.count(_MAX_ELEMENTS, "elements")
        if inner in _VALUE_BYTES:
            reader.skip(count * _VALUE_BYTES[inner])
        else:
            for _ in range(count):
                _skip_value(reader, inner, depth + 1)
    else:
        raise ValueError(f"it holds a value of the kind {kind}")


def _tensor_end(reader: _Reader) -> int:
    reader.text()
    dimensions = reader.number("<I")
    if dimensions > _MAX_DIMENSIONS:
        raise ValueError(f"a tensor has {dimensions} dimensions")
    elements: int = math.prod(reader.number("<Q") for _ in range(dimensions))
    kind, offset = reader.number("<I"), reader.number("<Q")
    # A kind that is not known here may be newer than this table: its start is checked at least.
    in_block, block_bytes = _BLOCKS.get(kind, (1, 0))
    end: int = offset + elements // in_block * block_bytes
    return end
