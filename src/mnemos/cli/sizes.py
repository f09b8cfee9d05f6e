"""Sizes as people type them: `20GB`, `1.5GiB`, `512M`, or bytes."""

from __future__ import annotations

import re

import click

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?", re.IGNORECASE)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int | None:
    """Return bytes: `20GB` counts in thousands, `20GiB` in 1024s; None for what is no size."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    number, letter, binary = found.groups()
    unit = (1024 if binary else 1000) ** _POWERS[letter.upper()] if letter else 1
    return int(float(number) * unit)


def size_option(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """The callback of an option that gives a size in bytes."""
    if value is None:
        return None
    count = parse_size(value)
    if count is None:
        raise click.BadParameter(f"{value!r} is no size: write it like 20GB, 1.5GiB or 512MB.")
    return count
