"""Objects of pushes that broke and of versions that were replaced: nothing names them any more."""

from __future__ import annotations

from collections.abc import Container, Iterable
from datetime import UTC, datetime, timedelta

from .errors import InvalidKeyError
from .keys import check_name
from .store import ObjectInfo

GRACE = timedelta(hours=24)
"""How long a stray is left alone: a push may be under way that will name it, and a worker may
still be reading the files of the version that was replaced."""


def version_of(key: str) -> tuple[str, str] | None:
    """Return the family and the version that a model's object belongs to; None for no model's."""
    parts = key.split("/", 2)
    if len(parts) < 3:
        return None
    try:
        return check_name(parts[0], "family"), check_name(parts[1], "version")
    except InvalidKeyError:
        return None


def find_strays(
    listed: Iterable[ObjectInfo],
    named: Container[str],
    settled: Container[tuple[str, str]],
    older_than: timedelta,
) -> list[ObjectInfo]:
    """Return the objects that may go: of the `settled` versions, not `named`, old enough."""
    before = datetime.now(UTC) - older_than
    return [
        info
        for info in listed
        if info.key not in named and version_of(info.key) in settled and info.last_modified < before
    ]
