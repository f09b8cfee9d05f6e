"""Identifiers that sort by the time they were made."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH = 26


def new_id(prefix: str) -> str:
    """`prefix_` and 26 lower-case characters: 48 bits of milliseconds, then 80 random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return f"{prefix}_{_encode(value)}"


def _encode(value: int) -> str:
    characters = [_ALPHABET[(value >> (5 * place)) & 31] for place in range(_LENGTH)]
    return "".join(reversed(characters))
