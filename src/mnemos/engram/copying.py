"""Brings a model's files from one ENGRAM to another, file by file, each checked on both ways."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import EngramError, first_error
from .fetch import WantedFile, fetch_files
from .files import Expected, OnBytes
from .manifest import ManifestFile
from .publish import reusable
from .store import ObjectStore

COPIES = 2


class Place(NamedTuple):
    """Where a model's files lie, or shall lie."""

    store: ObjectStore
    bucket: str
    path: str


async def copy_files(
    source: Place,
    target: Place,
    files: Sequence[ManifestFile],
    folder: Path,
    on_bytes: OnBytes | None = None,
) -> None:
    """Copy the files; what an earlier copy sent is not sent again.

    `folder` is for these files alone and needs room for two of them at a time; what a broken
    copy left there is continued, and it is gone when all is done. `on_bytes` counts every byte
    twice, as it comes and as it goes, from any thread. Raises EngramError: DamagedObjectError
    for a file that is not the one that was promised. Nothing wrong is ever stored.
    """
    await target.store.ensure_bucket(target.bucket)
    held = await reusable(target.store, target.bucket, target.path)
    slots = asyncio.Semaphore(COPIES)

    async def copy(number: int, file: ManifestFile) -> None:
        async with slots:
            if held.get(f"{target.path}/{file.path}") == file.size:
                if on_bytes is not None:
                    on_bytes(2 * file.size)
                return
            await _copy_one(source, target, file, folder / str(number), on_bytes)

    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    try:
        async with asyncio.TaskGroup() as group:
            for number, file in enumerate(files):
                group.create_task(copy(number, file))
    except* EngramError as failed:
        raise first_error(failed) from None
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _copy_one(
    source: Place, target: Place, file: ManifestFile, path: Path, on_bytes: OnBytes | None
) -> None:
    wanted = WantedFile(f"{source.path}/{file.path}", file.size, file.sha256, path)
    await fetch_files(source.store, source.bucket, [wanted], on_bytes=on_bytes)
    expected = Expected(file.path, file.size, file.sha256)
    key = f"{target.path}/{file.path}"
    await target.store.upload_file(target.bucket, key, path, on_bytes, expected)
    await asyncio.to_thread(path.unlink, missing_ok=True)
