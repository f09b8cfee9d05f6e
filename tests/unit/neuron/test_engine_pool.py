"""Who gets an engine, who waits, and who has to go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, FakeEngines

from neuron.errors import (
    DiskInUseError,
    InvalidInputError,
    ModelTooLargeError,
    NeuronError,
    OutOfMemoryError,
    RuntimeUnavailableError,
)
from neuron.models.runtime import RuntimeType
from neuron.services import engine_pool
from neuron.services.engine import EngineKey
from neuron.services.engine_pool import EnginePool
from neuron.services.load_progress import LoadProgress, OnProgress
from neuron.services.memory_budget import RAM, Demand, MemoryBudget
from neuron.services.model_loader import ModelInUse
from neuron.services.runtime_health import RuntimeHealth

NO_FILES = Path("no-such-folder")


def key(family: str) -> EngineKey:
    return EngineKey(family, "1", RuntimeType.TRANSFORMERS, "{}")


class Files:
    """Models' files, none of which exist; who holds them now."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.was_replaced = False
        self.room = 100
        """For how many models."""

    @asynccontextmanager
    async def using(
        self, family: str, version: str, on_progress: OnProgress
    ) -> AsyncIterator[ModelInUse]:
        if len(self.held) >= self.room:
            raise DiskInUseError("no room on the disk")
        on_progress(LoadProgress("loading model 50 %", 1, 2))
        self.held.append(family)
        try:
            yield ModelInUse(NO_FILES, f"sha256:{family}", lambda: not self.was_replaced)
        finally:
            self.held.remove(family)


@asynccontextmanager
async def running_pool(
    engines: FakeEngines,
    *,
    max_loaded: int = 1,
    memory_mb: int = 10**6,
    sizes: Mapping[str, int] | None = None,
    linger_seconds: float = 0.0,
    files: Files | None = None,
    **more: Any,
) -> AsyncIterator[EnginePool]:
    """A pool in which a model of family f is taken to need sizes[f] MB before it is loaded."""
    more["linger_seconds"] = linger_seconds

    async def measure(key: EngineKey, folder: Path, budget: MemoryBudget) -> Demand:
        size = (sizes or {}).get(key.family, 1)
        return Demand({RAM: size}, size // 2)

    pool = EnginePool(engines, files or Files(), max_loaded=max_loaded, measure=measure, **more)
    async with asyncio.TaskGroup() as tasks:
        await pool.start(tasks, MemoryBudget({RAM: memory_mb}))
        try:
            yield pool
        finally:
            await pool.stop()


async def use(pool: EnginePool, family: str, until: asyncio.Event | None = None) -> None:
    async with pool.use(key(family), lambda _: None):
        if until is not None:
            await until.wait()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def engines() -> FakeEngines:
    return FakeEngines()


async def test_jobs_of_one_model_share_its_one_load(engines: FakeEngines) -> None:
    engines.load_gate.clear()
    async with running_pool(engines) as pool, asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(use(pool, "a"))
        await settle()
        engines.load_gate.set()

    assert engines.loads == ["a:1"]
    assert engines.alive == []


async def test_an_engine_that_may_have_read_another_version_is_not_used(
    engines: FakeEngines,
) -> None:
    files = Files()
    async with running_pool(engines, files=files) as pool:
        files.was_replaced = True
        with pytest.raises(NeuronError, match="a:1 was replaced while it was loaded") as caught:
            await use(pool, "a")
        assert caught.value.retryable
        files.was_replaced = False
        await use(pool, "a")

    assert engines.loads == ["a:1", "a:1"]
    assert files.held == []


async def test_idle_models_leave_the_memory_where_their_files_fill_the_disk(
    engines: FakeEngines,
) -> None:
    files = Files()
    files.room = 2
    async with running_pool(engines, files=files, max_loaded=8) as pool:
        for family in ("a", "b", "a", "c", "d"):
            await use(pool, family)

        assert sorted(files.held) == ["c", "d"]
    assert engines.loads == ["a:1", "b:1", "c:1", "d:1"]


async def test_a_model_waits_for_the_disk_of_a_busy_one_but_not_of_others_workers(
    engines: FakeEngines,
) -> None:
    files = Files()
    files.room = 1
    done = asyncio.Event()
    async with running_pool(engines, files=files, max_loaded=8) as pool:
        async with asyncio.TaskGroup() as group:
            group.create_task(use(pool, "a", done))
            await settle()
            waiting = group.create_task(use(pool, "b"))
            await settle()
            assert files.held == ["a"]
            assert not waiting.done()
            done.set()
        assert files.held == ["b"]

    files.room = 0
    async with running_pool(engines, files=files, max_loaded=8) as pool:
        with pytest.raises(DiskInUseError):
            await use(pool, "c")


async def test_the_least_recently_used_idle_model_makes_room(engines: FakeEngines) -> None:
    async with running_pool(engines, max_loaded=2) as pool:
        for family in ("a", "b", "a", "c"):
            await use(pool, family)

        assert {model.family for model in pool.loaded_models} == {"a", "c"}
        assert pool.is_warm(key("a"))
        assert not pool.is_warm(key("b"))


async def test_a_busy_model_is_never_evicted(engines: FakeEngines) -> None:
    done = asyncio.Event()
    async with running_pool(engines) as pool, asyncio.TaskGroup() as group:
        group.create_task(use(pool, "a", done))
        await settle()
        other = group.create_task(use(pool, "b"))
        await settle()
        assert engines.loads == ["a:1"]
        assert not other.done()
        done.set()

    assert engines.loads == ["a:1", "b:1"]


async def test_a_busy_model_cannot_starve_another_for_ever(engines: FakeEngines) -> None:
    done = asyncio.Event()
    async with running_pool(engines, fairness_seconds=0.0) as pool, asyncio.TaskGroup() as group:
        group.create_task(use(pool, "a", done))
        await settle()
        order: list[str] = []

        async def note_use(family: str) -> None:
            await use(pool, family)
            order.append(family)

        for family in ("b", "a"):
            group.create_task(note_use(family))
            await settle()
        done.set()

    assert order == ["b", "a"]


async def test_a_model_serves_at_least_as_long_as_its_loading_took(engines: FakeEngines) -> None:
    engines.load_seconds = 60.0
    done = asyncio.Event()
    async with running_pool(engines, fairness_seconds=0.0) as pool, asyncio.TaskGroup() as group:
        group.create_task(use(pool, "a", done))
        await settle()
        group.create_task(use(pool, "b"))
        await settle()
        async with asyncio.timeout(5):
            await use(pool, "a")
        assert engines.loads == ["a:1"]
        done.set()


async def test_a_failed_load_fails_all_who_wait_and_the_next_tries_again(
    engines: FakeEngines,
) -> None:
    engines.load_error = NeuronError("broken")
    async with running_pool(engines) as pool:
        for _ in range(2):
            with pytest.raises(NeuronError, match="broken"):
                await use(pool, "a")
        engines.load_error = None
        await use(pool, "a")

    assert engines.loads == ["a:1"] * 3


async def test_a_bug_in_a_load_fails_its_job_and_not_the_worker(engines: FakeEngines) -> None:
    engines.load_error = ZeroDivisionError("a bug")
    async with running_pool(engines) as pool:
        with pytest.raises(NeuronError, match="ZeroDivisionError: a bug"):
            await use(pool, "a")
        engines.load_error = None
        await use(pool, "a")

    assert engines.loads == ["a:1"] * 2


async def test_a_load_that_nobody_waits_for_any_more_is_stopped(engines: FakeEngines) -> None:
    engines.load_gate.clear()
    async with running_pool(engines) as pool, asyncio.TaskGroup() as group:
        first = group.create_task(use(pool, "a"))
        second = group.create_task(use(pool, "a"))
        await engines.loading.wait()
        first.cancel()
        await settle()
        stopped = [engines.made[0].stopped]
        second.cancel()
        await settle()
        stopped.append(engines.made[0].stopped)
        assert stopped == [False, True], "the load must live as long as somebody wants it"
        engines.load_gate.set()
        await use(pool, "b")

    assert engines.loads == ["a:1", "b:1"]


async def test_a_job_that_comes_while_an_unwanted_load_stops_gets_a_load_of_its_own(
    engines: FakeEngines,
) -> None:
    engines.load_gate.clear()
    async with running_pool(engines) as pool, asyncio.TaskGroup() as group:
        first = group.create_task(use(pool, "a"))
        await engines.loading.wait()
        first.cancel()
        group.create_task(use(pool, "a"))
        await settle()
        engines.load_gate.set()

    assert engines.loads == ["a:1", "a:1"]


async def test_an_engine_that_died_is_replaced_on_the_next_use(engines: FakeEngines) -> None:
    async with running_pool(engines) as pool:
        await use(pool, "a")
        engines.made[0].die()
        await settle()
        assert pool.loaded_models == []
        await use(pool, "a")
        assert pool.is_warm(key("a"))

    assert len(engines.made) == 2


async def test_a_cancelled_waiter_leaves_the_queue(engines: FakeEngines) -> None:
    done = asyncio.Event()
    async with running_pool(engines) as pool, asyncio.TaskGroup() as group:
        group.create_task(use(pool, "a", done))
        await settle()
        waiting = group.create_task(use(pool, "b"))
        await settle()
        waiting.cancel()
        await settle()
        done.set()
        await settle()
        assert [model.family for model in pool.loaded_models] == ["a"]

    assert engines.loads == ["a:1"]


async def test_another_configuration_is_another_engine(engines: FakeEngines) -> None:
    async with running_pool(engines, max_loaded=2) as pool:
        await use(pool, "a")
        other = EngineKey("a", "1", RuntimeType.TRANSFORMERS, '{"torch_dtype":"float32"}')
        async with pool.use(other, lambda _: None) as engine:
            assert isinstance(engine, FakeEngine)
            assert engine is not engines.made[0]


# ---------------------------------------------------------------- memory


async def test_models_that_fit_together_stay_together(engines: FakeEngines) -> None:
    sizes = {"a": 400, "b": 400, "c": 400}
    async with running_pool(engines, max_loaded=9, memory_mb=1000, sizes=sizes) as pool:
        engines.memory_mb = {"a:1": 400, "b:1": 400, "c:1": 400}
        for family in ("a", "b", "a", "c"):
            await use(pool, family)

        assert {model.family for model in pool.loaded_models} == {"a", "c"}
        assert pool.available_mb() == (1000, 0), "idle models can be evicted"


async def test_what_a_model_was_measured_to_hold_counts_the_next_time(
    engines: FakeEngines,
) -> None:
    sizes = {"a": 900, "b": 100}
    engines.memory_mb = {"a:1": 100, "b:1": 100}
    async with running_pool(engines, max_loaded=9, memory_mb=1000, sizes=sizes) as pool:
        await use(pool, "a")
        await use(pool, "b")

        assert {model.family for model in pool.loaded_models} == {"a", "b"}


async def test_a_busy_model_counts_as_taken(engines: FakeEngines) -> None:
    engines.memory_mb = {"a:1": 400}
    done = asyncio.Event()
    sizes = {"a": 400}
    async with (
        running_pool(engines, max_loaded=9, memory_mb=1000, sizes=sizes) as pool,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(use(pool, "a", done))
        await settle()
        assert pool.available_mb() == (560, 0)
        done.set()


async def test_a_model_larger_than_the_worker_is_for_a_bigger_one(engines: FakeEngines) -> None:
    async with running_pool(engines, memory_mb=1000, sizes={"a": 5000}) as pool:
        with pytest.raises(ModelTooLargeError, match="1000 MB of memory") as caught:
            await use(pool, "a")

    assert caught.value.details == {"min_memory_mb": 1001}
    assert engines.loads == []


async def test_an_estimate_alone_keeps_no_model_out(engines: FakeEngines) -> None:
    async with running_pool(engines, memory_mb=1000, sizes={"a": 1900}) as pool:
        await use(pool, "a")

    assert engines.loads == ["a:1"], "its weights, half of the estimate, might fit"


async def test_memory_that_runs_out_evicts_the_idle_and_tries_once_more(
    engines: FakeEngines,
) -> None:
    engines.load_errors = {"b:1": [OutOfMemoryError("full")]}
    async with running_pool(engines, max_loaded=9) as pool:
        await use(pool, "a")
        await use(pool, "b")

        assert [model.family for model in pool.loaded_models] == ["b"]
    assert engines.loads == ["a:1", "b:1", "b:1"]


async def test_memory_that_runs_out_again_hands_the_job_to_a_bigger_worker(
    engines: FakeEngines,
) -> None:
    engines.load_errors = {"b:1": [OutOfMemoryError("full"), OutOfMemoryError("still full")]}
    async with running_pool(engines, max_loaded=9) as pool:
        await use(pool, "a")
        with pytest.raises(ModelTooLargeError, match="still full"):
            await use(pool, "b")

    assert engines.loads == ["a:1", "b:1", "b:1"]


async def test_a_pinned_model_is_never_evicted(engines: FakeEngines) -> None:
    async with running_pool(engines, max_loaded=2, pinned=["a:1"], idle_seconds=0.01) as pool:
        for family in ("a", "b", "c", "d"):
            await use(pool, family)
        for engine in engines.made[1:]:
            await engine.wait_closed()
        await settle()
        assert [model.family for model in pool.loaded_models] == ["a"]

    assert engines.loads == ["a:1", "b:1", "c:1", "d:1"]


async def test_a_model_that_only_pinned_ones_keep_out_is_for_another_worker(
    engines: FakeEngines,
) -> None:
    async with running_pool(engines, max_loaded=1, pinned=["a:1"]) as pool:
        await use(pool, "a")
        with pytest.raises(ModelTooLargeError):
            await use(pool, "b")


async def test_an_idle_model_goes_after_a_while(engines: FakeEngines) -> None:
    async with running_pool(engines, idle_seconds=0.02) as pool:
        await use(pool, "a")
        await engines.made[0].wait_closed()
        await settle()
        assert pool.loaded_models == []


async def test_an_idle_model_is_spared_for_the_jobs_on_their_way(engines: FakeEngines) -> None:
    async with (
        running_pool(engines, linger_seconds=60.0) as pool,
        asyncio.TaskGroup() as group,
    ):
        await use(pool, "a")
        waiting = group.create_task(use(pool, "b"))
        await settle()
        await use(pool, "a")
        assert engines.loads == ["a:1"]
        waiting.cancel()


async def test_a_spared_model_goes_when_its_time_is_over(engines: FakeEngines) -> None:
    async with running_pool(engines, linger_seconds=0.02) as pool:
        await use(pool, "a")
        await use(pool, "b")

    assert engines.loads == ["a:1", "b:1"]


async def test_waiting_models_get_room_in_the_order_they_came(engines: FakeEngines) -> None:
    done = asyncio.Event()
    order: list[str] = []

    async def note_use(pool: EnginePool, family: str) -> None:
        async with pool.use(key(family), lambda _: None):
            order.append(family)

    async with running_pool(engines) as pool, asyncio.TaskGroup() as group:
        group.create_task(use(pool, "a", done))
        await settle()
        for family in ("b", "c", "d"):
            group.create_task(note_use(pool, family))
            await settle()
        done.set()

    assert order == ["b", "c", "d"]


async def test_a_job_that_crashed_engines_before_gets_one_for_itself(
    engines: FakeEngines,
) -> None:
    inside: list[str] = []
    together: list[set[str]] = []
    gates = {name: asyncio.Event() for name in ("one", "two", "alone", "three")}

    async def enter(pool: EnginePool, name: str, *, alone: bool = False) -> None:
        async with pool.use(key("a"), lambda _: None, alone=alone):
            inside.append(name)
            together.append(set(inside))
            await gates[name].wait()
            inside.remove(name)

    async with running_pool(engines) as pool, asyncio.TaskGroup() as group:
        for name in gates:
            group.create_task(enter(pool, name, alone=name == "alone"))
            await settle()
        assert inside == ["one", "two"], "three must wait behind the one that must be alone"
        for name in gates:
            gates[name].set()
            await settle()

    assert {"alone"} in together
    assert not any("alone" in group and len(group) > 1 for group in together)


# ---------------------------------------------------------------- runtimes that cannot start


async def test_a_runtime_that_cannot_start_three_times_is_not_offered(
    engines: FakeEngines,
) -> None:
    unavailable: dict[RuntimeType, str] = {}
    told = asyncio.Event()

    async def on_change() -> None:
        told.set()

    health = RuntimeHealth(unavailable, on_change)
    engines.runtime_error = RuntimeUnavailableError("libcudart.so is missing")
    async with running_pool(engines, health=health) as pool, asyncio.TaskGroup() as tasks:
        await health.start(tasks)
        for attempt in range(3):
            assert unavailable == {}, attempt
            with pytest.raises(RuntimeUnavailableError):
                await use(pool, "a")
        async with asyncio.timeout(5):
            await told.wait()
        await health.stop()

    assert "libcudart.so is missing" in unavailable[RuntimeType.TRANSFORMERS]


@pytest.mark.parametrize("before_the_process", [False, True])
async def test_a_job_s_own_fault_speaks_against_no_runtime(
    engines: FakeEngines, before_the_process: bool
) -> None:
    unavailable: dict[RuntimeType, str] = {}

    async def on_change() -> None:
        raise AssertionError("nothing changed")

    if before_the_process:
        engines.runtime_error = InvalidInputError("runtime_config: device: no toaster")
    else:
        engines.load_error = NeuronError("bad weights")
    health = RuntimeHealth(unavailable, on_change)
    async with running_pool(engines, health=health) as pool:
        for _ in range(5):
            with pytest.raises(NeuronError):
                await use(pool, "a")

    assert unavailable == {}


async def test_files_are_held_from_before_the_load_until_the_engine_is_gone(
    engines: FakeEngines,
) -> None:
    files = Files()
    engines.load_gate.clear()
    async with running_pool(engines, files=files) as pool, asyncio.TaskGroup() as group:
        group.create_task(use(pool, "a"))
        await settle()
        assert files.held == ["a"], "while it loads"
        engines.load_gate.set()
        await settle()
        assert files.held == ["a"], "while it is resident, though idle"
        engines.made[0].die()
        await settle()
        assert files.held == []
        await use(pool, "a")
        await use(pool, "b")
        assert files.held == ["b"], "what was evicted is let go"
    assert files.held == []


async def test_files_of_a_load_that_fails_are_let_go(engines: FakeEngines) -> None:
    files = Files()
    engines.load_error = InvalidInputError("the weights cannot be read")
    async with running_pool(engines, files=files) as pool:
        with pytest.raises(InvalidInputError):
            await use(pool, "a")
        await settle()
        assert files.held == []


async def test_all_who_wait_hear_how_far_the_load_is(
    engines: FakeEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "STARTING_NEWS_SECONDS", 0.001)
    engines.load_gate.clear()
    heard: list[list[str]] = [[], []]

    has_heard_much = asyncio.Event()

    async def wait(place: int) -> None:
        def hear(news: LoadProgress) -> None:
            heard[place].append(news.message)
            if len(heard[1]) >= 3:
                has_heard_much.set()

        async with pool.use(key("a"), hear):
            return

    async with running_pool(engines) as pool, asyncio.TaskGroup() as group:
        group.create_task(wait(0))
        await settle()
        group.create_task(wait(1))
        async with asyncio.timeout(5):
            await has_heard_much.wait()
        engines.load_gate.set()

    assert "loading model 50 %" in heard[0]
    assert "starting the engine" in heard[0]
    assert heard[1][0] == "starting the engine", "who comes later hears at once where it is"
    assert pool.digest_of(key("a")) is None, "it is gone by now"


async def test_a_model_may_be_pinned_while_it_is_resident(engines: FakeEngines) -> None:
    async with running_pool(engines, max_loaded=1) as pool:
        await use(pool, "a")
        assert pool.digest_of(key("a")) == "sha256:a"
        pool.pin("a:1")
        with pytest.raises(ModelTooLargeError):
            await use(pool, "b")
        pool.unpin("a:1")
        await use(pool, "b")
    assert engines.loads == ["a:1", "b:1"]
