"""Identifiers that sort by the time they were made."""

from __future__ import annotations

import itertools
import os
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = ["".join(pair) for pair in itertools.product(_ALPHABET, repeat=2)]
_SHIFTS = range(120, -1, -10)
_RANDOM_BYTES = 10
_DRAWN_AT_ONCE = 64

_drawn: list[bytes] = []  # asking the system costs more than all else
os.register_at_fork(after_in_child=_drawn.clear)


def new_id(prefix: str) -> str:
    """`prefix_` and 26 lower-case characters: 48 bits of milliseconds, then 80 random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(_draw())
    return f"{prefix}_{''.join([_PAIRS[(value >> shift) & 1023] for shift in _SHIFTS])}"


def _draw() -> bytes:
    try:
        return _drawn.pop()
    except IndexError:
        block = secrets.token_bytes(_RANDOM_BYTES * _DRAWN_AT_ONCE)
        starts = range(0, len(block), _RANDOM_BYTES)
        first, *others = (block[start : start + _RANDOM_BYTES] for start in starts)
        _drawn.extend(others)
        return first
