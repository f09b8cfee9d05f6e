"""The one clock that leases, backoffs and deadlines are measured by."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]
"""Seconds since the epoch, never going backwards."""


def steady_clock() -> Clock:
    """A wall clock that is read once and then follows the monotonic one.

    So a clock that is set, by a person or by NTP, expires no lease while CORTEX runs.
    """
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


def as_datetime(seconds: float) -> datetime:
    """An aware UTC datetime."""
    return datetime.fromtimestamp(seconds, UTC)


def as_text(seconds: float | None) -> str | None:
    """ISO 8601 in UTC with milliseconds, as the HTTP API says times."""
    if seconds is None:
        return None
    return as_datetime(seconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")
