"""What a fetch is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

JOURNAL_SUFFIX = ".journal"


@dataclass(frozen=True, slots=True)
class WantedFile:
    """An object that must come to `path`: `size` bytes whose SHA-256 in hex is `sha256`."""

    key: str
    size: int
    sha256: str
    path: Path


def journal_path(path: Path) -> Path:
    """Where the journal of the unfinished file `path` lies: beside it."""
    return path.with_name(path.name + JOURNAL_SUFFIX)
