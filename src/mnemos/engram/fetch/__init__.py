"""Brings many objects to this machine's disk at once: verified, durable, resumed after a cut."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..errors import DamagedObjectError, EngramError, first_error
from ..files import OnBytes
from ..store import ObjectStore
from .wanted import WantedFile, journal_path

CONNECTIONS = 16

__all__ = ["CONNECTIONS", "WantedFile", "fetch_files", "journal_path"]


async def fetch_files(
    store: ObjectStore,
    bucket: str,
    files: Sequence[WantedFile],
    *,
    on_bytes: OnBytes | None = None,
    connections: int = CONNECTIONS,
) -> None:
    """Bring every file to its `path`, whole, verified and durable."""
    slots = asyncio.Semaphore(connections)

    async def fetch(file: WantedFile) -> None:
        async with slots:
            came = await store.download_file(bucket, file.key, file.path, on_bytes)
        if (came.size, came.sha256) != (file.size, file.sha256):
            await asyncio.to_thread(file.path.unlink, missing_ok=True)
            raise DamagedObjectError(
                f"{file.key} is damaged: it has {came.size} bytes with the sha256 {came.sha256}, "
                f"not {file.size} with {file.sha256}."
            )

    try:
        async with asyncio.TaskGroup() as group:
            for file in files:
                group.create_task(fetch(file))
    except* EngramError as failed:
        raise first_error(failed) from None
