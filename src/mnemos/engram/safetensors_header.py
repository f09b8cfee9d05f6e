"""Reads the header of a safetensors file, and believes none of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from .errors import ArtifactRefusedError

MAX_HEADER_BYTES = 100 * 1024 * 1024
"""What the safetensors library takes, too."""

_MAX_TENSORS = 1_000_000
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
    "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip


def tensor_names(path: Path, name: str) -> set[str]:
    """Return the names of the tensors that a safetensors file holds. Blocks.

    The header must describe the whole of the file: each tensor as long as its type and shape
    say, one after another, without gaps or overlaps. Raises ArtifactRefusedError, OSError.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        header = int.from_bytes(head, "little") if len(head) == 8 else 0
        if header > MAX_HEADER_BYTES and header <= size - 8:
            raise ArtifactRefusedError(
                f"{name} is not allowed: its header has {header} bytes, and {MAX_HEADER_BYTES} "
                "are the most that is read."
            )
        if not 2 <= header <= size - 8:
            raise ArtifactRefusedError(f"{name} is damaged or cut short: its header does not fit.")
        text = file.read(header)
    try:
        return _check(name, text, size - 8 - header)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise ArtifactRefusedError(f"{name} is damaged: its header cannot be read.") from None


def _check(name: str, text: bytes, data_bytes: int) -> set[str]:
    if not text.startswith(b"{"):
        raise ValueError("a header starts with a brace")
    tensors = json.loads(text, object_pairs_hook=_once)
    tensors.pop("__metadata__", None)
    if len(tensors) > _MAX_TENSORS:
        raise ArtifactRefusedError(f"{name} holds more than {_MAX_TENSORS} tensors.")
    end = 0
    spans = sorted((_span(entry), tensor) for tensor, entry in tensors.items())
    for (start, stop), tensor in spans:
        if start != end:
            raise ArtifactRefusedError(
                f"{name} is damaged: its tensor {tensor[:80]!r} overlaps another one or leaves a "
                "gap before it."
            )
        bits = _BITS.get(tensors[tensor]["dtype"])
        if bits is not None and (stop - start) * 8 != bits * math.prod(tensors[tensor]["shape"]):
            raise ArtifactRefusedError(
                f"{name} is damaged: its tensor {tensor[:80]!r} is not as long as its type and "
                "shape say."
            )
        end = stop
    if end != data_bytes:
        raise ArtifactRefusedError(
            f"{name} is damaged: its tensors take {end} bytes, and {data_bytes} are there."
        )
    return set(tensors)


def _span(entry: dict[str, Any]) -> tuple[int, int]:
    start, stop = entry["data_offsets"]
    if not all(type(each) is int and each >= 0 for each in (start, stop, *entry["shape"])):
        raise ValueError("offsets and shapes are whole numbers")
    if start > stop:
        raise ValueError("a tensor ends before it starts")
    return start, stop


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found
