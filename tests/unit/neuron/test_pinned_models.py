"""Models that the operator wants resident."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngines

from neuron.errors import StorageUnavailableError
from neuron.models.runtime import RuntimeType
from neuron.services import pinned_models
from neuron.services.engine import EngineKey
from neuron.services.engine_pool import EnginePool
from neuron.services.load_progress import OnProgress
from neuron.services.memory_budget import RAM, MemoryBudget
from neuron.services.model_loader import ModelInUse
from neuron.services.pinned_models import PinnedModels


class Catalogue:
    """Knows models, the config that they run with, and what tags point to."""

    def __init__(self, **tags: str) -> None:
        self.tags = tags
        self.down = False
        self.asked = asyncio.Event()

    async def get_model(self, family: str, version: str) -> dict[str, Any]:
        self.asked.set()
        if self.down:
            raise StorageUnavailableError("GENOME is down")
        runtime = {"type": "transformers", "config": {"torch_dtype": "float32"}}
        return {"version": self.tags.get(version, version), "runtime": runtime}


class Files:
    """Models' files, none of which exist."""

    @asynccontextmanager
    async def using(
        self, family: str, version: str, on_progress: OnProgress
    ) -> AsyncIterator[ModelInUse]:
        yield ModelInUse(Path("no-such-folder"), "")


async def loaded(engines: FakeEngines) -> None:
    async with asyncio.timeout(5):
        await engines.loading.wait()
    engines.loading.clear()
    for _ in range(20):
        await asyncio.sleep(0)


async def test_they_are_loaded_before_any_job_and_again_when_their_engine_died() -> None:
    engines = FakeEngines()
    pool = EnginePool(engines, Files(), pinned=["a:1"])
    pinned = PinnedModels(["a:1"], Catalogue(), pool)
    async with asyncio.TaskGroup() as tasks:
        await pool.start(tasks, MemoryBudget({RAM: 10**6}))
        await pinned.start(tasks)
        await loaded(engines)
        key = EngineKey("a", "1", RuntimeType.TRANSFORMERS, '{"torch_dtype":"float32"}')
        assert pool.is_warm(key), "a job of that model must find it"
        engines.made[0].die()
        await loaded(engines)
        assert pool.is_warm(key)
        await pinned.stop()
        await pool.stop()

    assert engines.loads == ["a:1", "a:1"]


async def test_a_tag_is_followed_and_what_it_pointed_to_may_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pinned_models, "TAG_SECONDS", 0.001)
    engines, catalogue = FakeEngines(), Catalogue(prod="1")
    pool = EnginePool(engines, Files(), pinned=["a:prod"], max_loaded=1, linger_seconds=0)
    pinned = PinnedModels(["a:prod"], catalogue, pool)
    async with asyncio.TaskGroup() as tasks:
        await pool.start(tasks, MemoryBudget({RAM: 10**6}))
        await pinned.start(tasks)
        await loaded(engines)
        [first] = pool.residents
        assert (first.key.model, first.pinned) == ("a:1", True)

        catalogue.down = True
        catalogue.asked.clear()
        async with asyncio.timeout(5):
            await catalogue.asked.wait()
        assert pool.is_warm(first.key), "a registry that is away moves nothing"

        catalogue.down = False
        catalogue.tags["prod"] = "2"
        await loaded(engines)
        [second] = pool.residents
        assert (second.key.model, second.pinned) == ("a:2", True)
        await pinned.stop()
        await pool.stop()

    assert engines.loads == ["a:1", "a:2"]


async def test_a_version_that_another_name_pins_stays_pinned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pinned_models, "TAG_SECONDS", 0.001)
    engines, catalogue = FakeEngines(), Catalogue(prod="1")
    pool = EnginePool(engines, Files())
    pinned = PinnedModels(["a:prod", "a:1"], catalogue, pool)
    async with asyncio.TaskGroup() as tasks:
        await pool.start(tasks, MemoryBudget({RAM: 10**6}))
        await pinned.start(tasks)
        await loaded(engines)
        catalogue.tags["prod"] = "2"
        await loaded(engines)
        assert {(one.key.version, one.pinned) for one in pool.residents} == {
            ("1", True),
            ("2", True),
        }
        await pinned.stop()
        await pool.stop()
