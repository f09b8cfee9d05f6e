"""Models that the operator wants resident."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fake_engine import FakeEngines

from neuron.models.runtime import RuntimeType
from neuron.services.engine import EngineKey
from neuron.services.engine_pool import EnginePool
from neuron.services.load_progress import OnProgress
from neuron.services.memory_budget import RAM, MemoryBudget
from neuron.services.model_loader import ModelInUse
from neuron.services.pinned_models import PinnedModels


class Catalogue:
    """Knows one model, and the config that it runs with."""

    async def get_model(self, family: str, version: str) -> dict[str, Any]:
        return {"runtime": {"type": "transformers", "config": {"torch_dtype": "float32"}}}


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
