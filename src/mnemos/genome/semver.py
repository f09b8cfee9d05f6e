"""The order of versions that are written like 1.2.3."""

from __future__ import annotations

import re
from typing import Any

_SEMVER = re.compile(
    r"v?([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)

Key = tuple[Any, ...]


def version_key(version: str) -> Key:
    """What sorts versions: by semantic versioning's rules where they follow them.

    A leading v may stand, and the minor and patch numbers may be left out (1.2 is 1.2.0). All
    others come before the lowest and are equal to one another.
    """
    found = _SEMVER.fullmatch(version)
    if found is None:
        return (0,)
    major, minor, patch, prerelease = found.groups()
    return (1, int(major), int(minor or 0), int(patch or 0), *_prerelease_key(prerelease))


def _prerelease_key(text: str | None) -> Key:
    """A release comes after its pre-releases; numbers in their names count as numbers."""
    if text is None:
        return (1,)
    parts = text.split(".")
    return (0, tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts))
