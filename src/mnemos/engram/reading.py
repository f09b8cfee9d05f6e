"""Reads all of a model's objects and compares them with what was registered; keeps nothing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from contextlib import aclosing

from .errors import EngramError, ObjectNotFoundError, first_error
from .store import ObjectStore

READS = 4


async def find_damage(
    store: ObjectStore,
    bucket: str,
    path: str,
    files: Sequence[tuple[str, int, str]],
    on_progress: Callable[[int, int], None],
) -> list[str]:
    """Return what is wrong with the objects below `path`, a few words for each, in order.

    `files` are (path, size, SHA-256 in hex). `on_progress` gets the bytes read and those of all.
    Raises EngramError where the storage cannot be read.
    """
    total = sum(size for _, size, _ in files)
    done = 0
    slots = asyncio.Semaphore(READS)

    async def look(name: str, size: int, sha256: str) -> str | None:
        nonlocal done
        digest = hashlib.sha256()
        count = 0
        async with slots:
            try:
                async with aclosing(store.stream(bucket, f"{path}/{name}")) as chunks:
                    async for chunk in chunks:
                        await asyncio.to_thread(digest.update, chunk)
                        count += len(chunk)
                        done += len(chunk)
                        on_progress(done, total)
            except ObjectNotFoundError:
                return f"{name} is missing"
        if count != size:
            return f"{name} has {count} bytes, not {size}"
        if digest.hexdigest() != sha256:
            return f"{name} has the sha256 {digest.hexdigest()}, not {sha256}"
        return None

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(look(*file)) for file in files]
    except* EngramError as failed:
        raise first_error(failed) from None
    return [said for task in tasks if (said := task.result())]
