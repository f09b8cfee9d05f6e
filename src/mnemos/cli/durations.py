"""Times as people type them: `30`, `90s`, `1h 30m`, `7d`; or a date."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click

_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_LONGEST_SECONDS = 100 * 365 * 86_400.0


def parse_seconds(text: str) -> float | None:
    """Read `90`, `90s`, `1h30m`, `7d` as seconds; None for what is no duration."""
    total, place, parts = 0.0, 0, 0
    while place < len(text):
        part = _PART.match(text, place)
        if part is None or (parts and not part[2]):
            return None
        total += float(part[1]) * _SECONDS[part[2]]
        place, parts = part.end(), parts + 1
    return total if parts and total <= _LONGEST_SECONDS else None


def seconds_option(
    longest_seconds: float,
) -> Callable[[click.Context, click.Parameter, str | None], float | None]:
    """The callback of an option that gives a duration, at most so long."""

    def read(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
        if value is None:
            return None
        seconds = parse_seconds(value)
        if seconds is None:
            raise click.BadParameter(f"{value!r} is no duration: write it like 30, 90s, 5m or 2h.")
        if seconds > longest_seconds:
            raise click.BadParameter(
                f"{value!r} is too long: it may be {longest_seconds:g} s at most."
            )
        return seconds

    return read


def moment_option(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> datetime | None:
    """The callback of an option that gives a moment: a date, or how long ago it was."""
    if value is None:
        return None
    seconds = parse_seconds(value)
    if seconds is not None:
        return datetime.now(UTC) - timedelta(seconds=seconds)
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is no time: write it like 2h, 7d or 2026-01-31T12:00."
        ) from None
