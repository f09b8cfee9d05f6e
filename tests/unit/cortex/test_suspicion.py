"""Which ends of a stream make CORTEX suspect a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from mnemos.cortex.errors import StorageUnavailableError
from mnemos.cortex.suspicion import Suspector


class Books:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.watched: list[str] = []
        self.suspected: list[set[str]] = []
        self.down = False

    async def watch(self, worker_id: str, instance_id: str, watch_id: str) -> bool:
        self.watched.append(worker_id)
        return instance_id != "replaced"

    async def suspect(self, broken: Collection[tuple[str, str]], seconds: float) -> int:
        if self.down:
            raise StorageUnavailableError("the disk is full")
        self.suspected.append({worker_id for worker_id, _ in broken})
        return 1


async def end_with(
    suspector: Suspector, error: BaseException | None, worker: str, instance: str = "one"
) -> None:
    """Open a stream and let it end."""
    try:
        with suspector.watching(worker, instance) as stream:
            await suspector.note(stream)
            if error is not None:
                raise error
    except BaseException as raised:
        if raised is not error:
            raise


async def settled(suspector: Suspector) -> None:
    """Let it do what it has to do now."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(suspector.run())
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit()])
async def test_a_stream_that_its_other_end_broke(error: BaseException) -> None:
    books, due = Books(), list[float]()
    suspector = Suspector(books, seconds=2.0, expire_in=due.append)
    await end_with(suspector, error, "wrk_a")
    await end_with(suspector, error, "wrk_b")
    await settled(suspector)
    assert books.suspected == [{"wrk_a", "wrk_b"}], "not in one go"
    assert due == [2.0]


@pytest.mark.parametrize("error", [None, StorageUnavailableError("no"), TimeoutError()])
async def test_a_stream_that_cortex_ended(error: BaseException | None) -> None:
    books = Books()
    suspector = Suspector(books, seconds=2.0)
    await end_with(suspector, error, "wrk_a")
    await settled(suspector)
    assert books.watched == ["wrk_a"]
    assert books.suspected == []


async def test_a_stream_that_ends_while_cortex_does() -> None:
    books = Books()
    suspector = Suspector(books, seconds=2.0)
    suspector.close()
    await end_with(suspector, asyncio.CancelledError(), "wrk_a")
    await settled(suspector)
    assert books.suspected == []


@pytest.mark.parametrize(("instance", "seconds"), [("", 2.0), ("replaced", 2.0), ("one", 0.0)])
async def test_a_stream_of_nobody_who_can_be_suspected(instance: str, seconds: float) -> None:
    books = Books()
    suspector = Suspector(books, seconds=seconds)
    await end_with(suspector, asyncio.CancelledError(), "wrk_a", instance)
    await settled(suspector)
    assert books.suspected == []


async def test_a_store_that_fails_is_survived() -> None:
    books = Books()
    suspector = Suspector(books, seconds=2.0)
    books.down = True
    await end_with(suspector, asyncio.CancelledError(), "wrk_a")
    await settled(suspector)
    books.down = False
    await end_with(suspector, asyncio.CancelledError(), "wrk_b")
    await settled(suspector)
    assert books.suspected == [{"wrk_b"}]
