"""Cursors: where a list goes on. Opaque to callers, a number to us."""

from __future__ import annotations

import base64
import binascii

from mnemos.http import invalid_input

_MAX = 2**62


def write_cursor(number: int) -> str:
    """Return the cursor of a position."""
    return base64.urlsafe_b64encode(f"c{number}".encode()).decode().rstrip("=")


def read_cursor(cursor: str, field: str) -> int:
    """Return the position of a cursor. Raises ApiError for one that we never gave."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True).decode()
        number = int(text.removeprefix("c")) if text[1:].isdecimal() else -1
    except (UnicodeError, binascii.Error, ValueError):
        number = -1
    if not 0 <= number <= _MAX or write_cursor(number) != cursor:
        raise invalid_input(f"{field}: is not a cursor that this service gave.", field)
    return number
