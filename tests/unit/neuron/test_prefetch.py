"""Fetching ahead: what CORTEX names, one at a time, out of the way of what jobs wait for."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mnemos.engram.cache import Entry
from neuron.errors import InsufficientResourcesError, StorageUnavailableError
from neuron.models.worker import ModelHint
from neuron.services import prefetch
from neuron.services.disk_models import MOST_MODELS, DiskModels
from neuron.services.load_progress import LoadProgress
from neuron.services.model_cache import ModelCache
from neuron.services.model_files import ModelFiles
from neuron.services.model_loader import ModelInUse
from neuron.services.prefetch import Prefetcher
from neuron.utils.metrics import WorkerMetrics


def hint(family: str) -> ModelHint:
    return ModelHint(family=family, version="1", runtime="transformers")


class Loader:
    """Downloads that end when the test says; those of jobs, and those that run ahead."""

    def __init__(self) -> None:
        self.ahead: list[str] = []
        self.fetched: list[str] = []
        self.cancelled: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.may_end = asyncio.Event()
        self.job_may_end = asyncio.Event()
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def fetch_ahead(
        self, family: str, version: str, *, spared_seconds: float, connections: int
    ) -> bool:
        self.ahead.append(family)
        try:
            if error := self.errors.get(family):
                raise error
            async with self.locks[family]:
                await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled.append(family)
            raise
        self.fetched.append(family)
        return True

    @asynccontextmanager
    async def using(
        self,
        family: str,
        version: str,
        on_progress: Callable[[str], None] | None = None,
        on_transfer: Callable[[int, int], None] | None = None,
    ) -> AsyncIterator[ModelInUse]:
        assert on_transfer is not None
        async with self.locks[family]:
            on_transfer(0, 10)
            await self.job_may_end.wait()
        yield ModelInUse(Path("x"), "")


class Bench:
    """A prefetcher that runs, with the downloads of jobs beside it."""

    def __init__(self) -> None:
        self.loader = Loader()
        self.metrics = WorkerMetrics()
        self.files = ModelFiles(self.loader)
        self.prefetcher = Prefetcher(self.loader, self.files, self.metrics)

    async def load_for_a_job(self, family: str) -> None:
        async with self.files.using(family, "1", ignore):
            pass

    def count(self, outcome: str) -> float:
        labels = {"outcome": outcome}
        value = self.metrics.registry.get_sample_value("neuron_prefetches_total", labels)
        return value or 0.0


def ignore(_: LoadProgress) -> None:
    return


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    async with asyncio.TaskGroup() as tasks:
        await bench.prefetcher.start(tasks)
        yield bench
        await bench.prefetcher.stop()


async def test_what_is_hinted_is_fetched_one_at_a_time_in_order(bench: Bench) -> None:
    bench.prefetcher.hint([hint("a"), hint("b")])
    await settle()
    assert bench.loader.ahead == ["a"]
    bench.loader.may_end.set()
    await settle()
    assert bench.loader.fetched == ["a", "b"]
    assert bench.count("done") == 2

    bench.prefetcher.hint([])
    await settle()
    assert bench.loader.ahead == ["a", "b"]


async def test_it_gives_way_to_any_download_of_a_job_and_goes_on_behind_it(bench: Bench) -> None:
    bench.prefetcher.hint([hint("a")])
    await settle()
    async with asyncio.TaskGroup() as jobs:
        jobs.create_task(bench.load_for_a_job("other"))
        await settle()
        assert bench.loader.cancelled == ["a"]
        bench.prefetcher.hint([hint("a"), hint("b")])
        await settle()
        assert bench.loader.ahead == ["a"], "nothing begins beside a job's download"
        bench.loader.job_may_end.set()
    await settle()
    assert bench.loader.ahead == ["a", "a"]
    assert bench.count("gave_way") == 1


async def test_a_job_that_needs_the_very_model_gets_all_of_the_line(bench: Bench) -> None:
    bench.prefetcher.hint([hint("a")])
    await settle()
    async with asyncio.TaskGroup() as jobs:
        jobs.create_task(bench.load_for_a_job("a"))
        await settle()
        assert bench.loader.cancelled == ["a"]
        bench.loader.job_may_end.set()


async def test_what_fails_is_left_alone_for_a_while_and_the_next_is_tried(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.loader.errors["a"] = InsufficientResourcesError("no room")
    bench.loader.errors["c"] = ZeroDivisionError("a bug")
    bench.loader.may_end.set()
    for _ in range(2):
        bench.prefetcher.hint([hint("a"), hint("c"), hint("b")])
        await settle()
    assert bench.loader.ahead == ["a", "c", "b", "b"]
    assert bench.count("failed") == 2

    monkeypatch.setattr(prefetch, "AFTER_FAILURE_SECONDS", 0.0)
    bench.prefetcher.hint([hint("d")])
    bench.loader.errors["d"] = StorageUnavailableError("away")
    await settle()
    bench.loader.errors.clear()
    bench.prefetcher.hint([hint("d")])
    await settle()
    assert bench.loader.fetched == ["b", "b", "d"]


async def test_cortex_is_told_of_what_lies_here_the_latest_first(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "w").write_bytes(b"x")
    cache.set("a:1", tmp_path / "files")
    (tmp_path / "files" / "w").write_bytes(b"y")
    cache.set("b:1", tmp_path / "files")
    disk = DiskModels(cache, 60.0)

    held = cache.hold("a:1")
    assert held is not None
    held.close()
    await disk.run_once()
    assert [model.family for model in disk.models] == ["a", "b"]
    assert disk.models[0].digest == cache.digest("a:1")

    (cache.folder("a", "1") / "w").unlink()
    await disk.run_once()
    assert [model.family for model in disk.models] == ["b"], "what is not whole is not here"


async def test_no_more_is_told_than_a_heartbeat_can_carry() -> None:
    class Crowded:
        def models(self) -> list[Entry]:
            return [Entry(f"m{n}", "1", "", 1, 1, 1, 0.0, False, True) for n in range(1000)]

    disk = DiskModels(Crowded(), 60.0)
    await disk.run_once()
    assert len(disk.models) == MOST_MODELS
