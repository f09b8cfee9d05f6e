"""How far a load is: measured, told at the right moments, to all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fake_engine import FakeEngine, FakeEngines

from neuron.errors import StorageUnavailableError
from neuron.models.runtime import RuntimeType
from neuron.services.engine import EngineKey
from neuron.services.load_progress import LoadProgress, TransferMeter, in_words, starting
from neuron.services.model_files import ModelFiles
from neuron.services.model_loader import ModelInUse
from neuron.services.resident import NEWS_PER_SECOND, Resident
from neuron.utils.metrics import WorkerMetrics


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_was_here_before_counts_as_done_and_not_as_fast() -> None:
    clock = Clock()
    meter = TransferMeter(clock)
    meter.note(500, 1000)
    clock.now += 2
    meter.note(600, 1000)

    assert meter.progress() == LoadProgress(
        "loading model 60 %, 8 s left", 600, 1000, counts_on=True
    )


def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    meter = TransferMeter(clock)
    for done in range(0, 1000, 10):  # 10 bytes a second, for long
        meter.note(done, 10_000)
        clock.now += 1
    for done in range(1000, 3000, 100):
        meter.note(done, 10_000)
        clock.now += 1

    assert meter.bytes_per_second == pytest.approx(100, rel=0.15)


def test_it_is_told_each_whole_percent_and_no_oftener_than_every_second() -> None:
    clock = Clock()
    meter = TransferMeter(clock)
    told = []
    for step in range(500):  # 5 s, a percent every 50 ms
        if meter.note(step * 2, 1000):
            told.append(clock.now)
        clock.now += 0.01
    assert len(told) == 5

    slow = TransferMeter(clock)
    moments = 0
    for done in range(60):  # a minute within one percent
        moments += slow.note(done, 10_000)
        clock.now += 1
    assert moments == 6


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (41.2, "41 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_an_engine_that_starts() -> None:
    assert starting(0).message == "starting the engine"
    assert starting(12.3).message == "starting the engine, 12 s so far"


class Loader:
    """Downloads one model at a time, as told by the test."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.came = asyncio.Event()
        self.error: Exception | None = None
        self.held = 0

    @asynccontextmanager
    async def using(
        self,
        family: str,
        version: str,
        on_progress: Callable[[str], None] | None = None,
        on_transfer: Callable[[int, int], None] | None = None,
    ) -> AsyncIterator[ModelInUse]:
        assert on_progress is not None
        assert on_transfer is not None
        async with self.lock:
            if not self.came.is_set():
                for percent in range(100):
                    on_progress(f"another worker on this machine downloads the model, {percent} %")
                on_transfer(0, 100)
                on_progress("downloading the model, 0 %")
                await self.came.wait()
                if self.error is not None:
                    raise self.error
        self.held += 1
        try:
            yield ModelInUse(Path("x"), "sha256:x")
        finally:
            self.held -= 1


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_all_who_wait_for_a_download_hear_of_it_also_those_that_come_later() -> None:
    loader, metrics = Loader(), WorkerMetrics()
    files = ModelFiles(loader, metrics)
    heard: list[list[str]] = [[], []]

    async def wait(place: int) -> None:
        async with files.using("a", "1", lambda news: heard[place].append(news.message)):
            assert loader.held

    async with asyncio.TaskGroup() as group:
        group.create_task(wait(0))
        await settle()
        group.create_task(wait(1))
        await settle()
        assert files.is_downloading
        assert files.is_wanted("a:1")
        loader.came.set()

    assert heard[0] == [
        "another worker on this machine downloads the model, 0 %",
        "loading model 0 %",
    ]
    assert heard[1] == ["loading model 0 %"]
    assert not files.is_wanted("a:1")
    assert loader.held == 0
    downloads = metrics.registry.get_sample_value(
        "neuron_model_load_phase_seconds_count", {"phase": "download"}
    )
    assert downloads == 1


async def test_a_download_that_fails_is_over_for_the_next() -> None:
    loader = Loader()
    loader.error = StorageUnavailableError("ENGRAM is away")
    loader.came.set()
    files = ModelFiles(loader)
    loader.came.clear()

    async def wait() -> None:
        with pytest.raises(StorageUnavailableError):
            async with files.using("a", "1", lambda _: None):
                pass

    async with asyncio.TaskGroup() as group:
        group.create_task(wait())
        await settle()
        assert files.is_wanted("a:1")
        loader.came.set()
    assert not files.is_wanted("a:1")


async def test_where_very_many_wait_each_hears_less_often_and_of_every_step() -> None:
    key = EngineKey("a", "1", RuntimeType.TRANSFORMERS, "{}")
    resident = Resident(key, FakeEngine(FakeEngines(), "a:1"))
    heard: list[str] = []
    for _ in range(3 * NEWS_PER_SECOND):
        resident.listeners.add(lambda news: heard.append(news.message))
    for percent in range(100):
        resident.tell(LoadProgress(f"{percent} %", percent, 100, counts_on=percent > 0))
    resident.tell(starting(0))

    assert set(heard) == {"0 %", "starting the engine"}
    assert len(heard) == 2 * len(resident.listeners)
