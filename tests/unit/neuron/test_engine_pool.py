"""Who gets an engine, who waits, and who has to go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from fake_engine import FakeEngine, FakeEngines

from neuron.errors import NeuronError, OutOfMemoryError
from neuron.models.runtime import RuntimeType
from neuron.services.engine_pool import EngineKey, EnginePool


def key(family: str) -> EngineKey:
    return EngineKey(family, "1", RuntimeType.TRANSFORMERS, "{}")


async def fetch(family: str, version: str, on_progress: Callable[[str], None]) -> None:
    on_progress("fetched")


@asynccontextmanager
async def running_pool(
    engines: FakeEngines, *, max_loaded: int = 1, fairness_seconds: float = 10.0
) -> AsyncIterator[EnginePool]:
    pool = EnginePool(engines, fetch, max_loaded=max_loaded, fairness_seconds=fairness_seconds)
    async with asyncio.TaskGroup() as tasks:
        await pool.start(tasks)
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


async def test_a_failed_load_fails_all_who_wait_and_the_next_tries_again(
    engines: FakeEngines,
) -> None:
    engines.load_error = OutOfMemoryError("too big")
    async with running_pool(engines) as pool:
        for _ in range(2):
            with pytest.raises(OutOfMemoryError):
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
