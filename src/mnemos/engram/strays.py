"""Objects of pushes that broke and of versions that were replaced: nothing names them any more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Container, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .backends import FolderBackend
from .errors import InvalidKeyError
from .keys import check_name
from .store import ObjectInfo, ObjectStore

GRACE = timedelta(hours=24)
"""How long a stray is left alone: a push may be under way that will name it, and a worker may
still be reading the files of the version that was replaced."""


_UNFINISHED = re.compile(r"[0-9a-f]{32}#0")


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


async def remove_unfinished(store: ObjectStore, bucket: str, older_than: timedelta) -> int:
    """Remove the half-written files of writers that were killed; return how many.

    No listing shows them. On S3 the bucket's lifecycle rule clears the parts of such uploads.
    Raises BucketNotFoundError.
    """
    if not isinstance(store.backend, FolderBackend):
        return 0
    folder = await store.backend.folder(bucket)
    return await asyncio.to_thread(_remove_unfinished, folder, datetime.now(UTC) - older_than)


def _remove_unfinished(folder: Path, before: datetime) -> int:
    removed = 0
    for parent, _, names in os.walk(folder):
        for name in filter(_UNFINISHED.fullmatch, names):
            path = Path(parent, name)
            with contextlib.suppress(FileNotFoundError):  # it is finished, or another prunes
                if path.stat().st_mtime < before.timestamp():
                    path.unlink()
                    removed += 1
    return removed
