"""Brings many objects to this machine's disk at once: verified, durable, resumed after a cut.

All files share one queue of parts, the largest file's first, and a pool of threads that fetch them.
Files are hashed behind the writing, so that the end of the last byte is nearly the end of the
hashing; the disk begins to write early, so that the last fsync is short.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ..backends import FolderBackend, S3Backend
from ..files import OnBytes
from ..keys import check_bucket, check_key
from ..store import ObjectStore
from .fetching import Fetching
from .folder_source import FolderSource
from .limits import Limits
from .s3_source import S3Source
from .source import Source
from .wanted import WantedFile, journal_path

CONNECTIONS = 16

__all__ = ["CONNECTIONS", "Limits", "WantedFile", "fetch_files", "journal_path"]


async def fetch_files(
    store: ObjectStore,
    bucket: str,
    files: Sequence[WantedFile],
    *,
    on_bytes: OnBytes | None = None,
    connections: int = CONNECTIONS,
    limits: Limits | None = None,
) -> None:
    """Bring every file to its `path`, whole, proven by its SHA-256 and durable.

    Each `path` is the caller's, in a folder that exists, and nobody else writes there meanwhile.
    What a fetch before this one left at `path` is taken up where it stopped, by the journal beside
    it. `on_bytes` is told each byte once, found or fetched, from any thread.

    On failure and on cancel the unfinished files stay, to be taken up again; no thread is left.
    Cancelling takes as long as one buffer.

    Raises:
        DamagedObjectError: an object is not the one that was promised, or changes meanwhile; what
            came of it is removed.
        ObjectNotFoundError, BucketNotFoundError, AccessDeniedError: the store says so.
        StorageUnavailableError: the store failed again and again.
        LocalDiskError: this machine's disk, at once where it is too full.
    """
    check_bucket(bucket)
    for file in files:
        check_key(file.key)
    patience = limits or Limits()
    source = await _source(store, bucket, patience)
    await _run(Fetching(source, files, on_bytes, connections, patience), patience.stop_seconds)


async def _source(store: ObjectStore, bucket: str, limits: Limits) -> Source:
    backend = store.backend
    if isinstance(backend, FolderBackend):
        return FolderSource(await backend.folder(bucket), bucket, backend.where, limits)
    assert isinstance(backend, S3Backend)
    opened = await backend.open(bucket)
    return await asyncio.to_thread(S3Source, opened, bucket, backend.where, limits)


async def _run(fetching: Fetching, stop_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, thread_name_prefix="fetch")
    ending = loop.run_in_executor(thread, fetching.run)
    try:
        await asyncio.shield(ending)
    except asyncio.CancelledError:
        fetching.stop()
        await _ended(ending, stop_seconds)
        raise
    finally:
        thread.shutdown(wait=ending.done())  # a moment, unless it hangs in the disk


async def _ended(ending: asyncio.Future[None], seconds: float) -> None:
    """Wait for the threads, whoever cancels again meanwhile: they write to the caller's files."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not ending.done() and loop.time() < deadline:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([ending], timeout=deadline - loop.time())
    if ending.done() and not ending.cancelled():
        ending.exception()  # the cancel is what is told
