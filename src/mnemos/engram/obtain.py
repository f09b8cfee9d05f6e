"""Has a model on this machine: from the cache, or brought once for all who want it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from .cache import ArtifactCache, Busy, Claimed, Hold, Load
from .errors import AccessDeniedError, EngramError
from .fetch import WantedFile
from .files import OnBytes
from .manifest import ManifestFile

POLL_SECONDS = 0.25
"""How often a waiting process looks: a lock among processes has no event to wait for."""

_threads = ThreadPoolExecutor(8, thread_name_prefix="cache")
"""Of their own: who waits for the cache's lock or removes big files keeps no other work waiting."""

Fetch = Callable[[Sequence[WantedFile], OnBytes], Awaitable[None]]
"""Brings files to their paths, as fetch_files does for some store and bucket."""

Answer = TypeVar("Answer")


class Watcher(Protocol):
    """Is told how a model arrives; each method is called on the event loop, and never blocks."""

    def begun(self, here_bytes: int, total_bytes: int) -> None:
        """A download begins; `here_bytes` of the model are here already."""

    def came(self, count: int) -> None:
        """So many bytes more are here."""

    def waiting(self, percent: int) -> None:
        """Another process of this machine brings what is lacking; so much of it has come."""

    def evicted(self, models: Sequence[str]) -> None:
        """These models made room."""


async def obtain(
    cache: ArtifactCache,
    family: str,
    version: str,
    files: Sequence[ManifestFile],
    key_prefix: str,
    fetch: Fetch,
    watcher: Watcher,
) -> Hold:
    """Return a hold on the model, whose files lie in the store at `key_prefix`/<path>.

    One process of a machine brings a file at a time; the others wait for it. When it is cancelled
    or the store cannot be reached, what has come stays for the next call; when an object is
    missing or damaged, or the disk is full, nothing does. Raises InvalidKeyError, CacheFullError,
    LocalDiskError, and what `fetch` raises: only EngramErrors are told apart like that.
    """
    while True:
        begun = await in_thread(cache.begin, family, version, files, undo=_close)
        if isinstance(begun, Hold):
            return begun
        if isinstance(begun, Load):
            return await _bring(begun, key_prefix, fetch, watcher)
        assert isinstance(begun, Busy)
        watcher.waiting(begun.percent)
        await asyncio.sleep(POLL_SECONDS)


async def _bring(load: Load, key_prefix: str, fetch: Fetch, watcher: Watcher) -> Hold:
    try:
        return await _fill(load, key_prefix, fetch, watcher)
    except BaseException as error:
        forget = isinstance(error, EngramError) and not _may_go_on(error)
        await in_thread(lambda: load.close(forget=forget))
        raise


def _may_go_on(error: EngramError) -> bool:
    return error.retryable or isinstance(error, AccessDeniedError)


async def _fill(load: Load, key_prefix: str, fetch: Fetch, watcher: Watcher) -> Hold:
    await in_thread(load.salvage, on_cancel=load.stop)
    lacking = sum(file.size for file in await in_thread(lambda: load.lacking))
    counter = _Counter(load, load.total_bytes - lacking, watcher)
    if lacking:
        watcher.begun(load.total_bytes - lacking, load.total_bytes)
    while True:
        claimed = await in_thread(load.claim)
        if claimed.removed.models:
            watcher.evicted(claimed.removed.models)
        if claimed.files:
            async with counter.counting() as count:
                await fetch(_wanted(claimed, key_prefix), count)
            await in_thread(load.adopt, claimed)
        elif claimed.waits:
            watcher.waiting(claimed.percent)
            await asyncio.sleep(POLL_SECONDS)
        else:
            return await in_thread(load.finish, undo=_close)


def _wanted(claimed: Claimed, key_prefix: str) -> list[WantedFile]:
    prefix = key_prefix.rstrip("/")
    return [
        WantedFile(f"{prefix}/{file.path}", file.size, file.sha256, path)
        for file, path in claimed.files
    ]


class _Counter:
    """Counts bytes in whatever thread they come, and tells of them on the loop, in turn."""

    def __init__(self, load: Load, here_bytes: int, watcher: Watcher) -> None:
        self._load = load
        self._watcher = watcher
        self._done = here_bytes
        self._percent = -1
        self._untold = 0
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[OnBytes]:
        """Lend what counts; all that it counted is told when the block ends."""
        try:
            yield self._count
        finally:
            self._tell()

    def _count(self, count: int) -> None:
        with self._lock:
            first = self._untold == 0
            self._untold += count
            self._done += count
            percent = 100 * self._done // max(1, self._load.total_bytes)
            is_news = percent != self._percent
            self._percent = percent
        if is_news:
            self._load.tell(percent)  # writes to the disk: not on the loop
        if first and count:
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        with self._lock:
            count, self._untold = self._untold, 0
        if count:
            self._watcher.came(count)


async def in_thread(
    call: Callable[..., Answer],
    *given: object,
    undo: Callable[[Answer], None] | None = None,
    on_cancel: Callable[[], None] | None = None,
) -> Answer:
    """Run a blocking call to its end even when the wait is cancelled: the cancel comes after it.

    `undo` then takes back what it returned; `on_cancel` is to make it end soon.
    """
    work = asyncio.get_running_loop().run_in_executor(_threads, call, *given)
    cancelled = False
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            cancelled = True
            if on_cancel is not None:
                on_cancel()
        except BaseException:  # noqa: BLE001 - it is raised below, by result()
            break
    if not cancelled:
        return work.result()
    if work.exception() is None and undo is not None:
        undo(work.result())
    raise asyncio.CancelledError


def _close(begun: Hold | Load | Busy) -> None:
    if not isinstance(begun, Busy):
        begun.close()
