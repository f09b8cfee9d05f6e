"""A worker in this process, a fake CORTEX over real gRPC, and engines that obey their prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_cortex import FakeCortex, serving_fake_cortex
from fake_engine import FakeEngines

from neuron.config import Settings
from neuron.services.model_cache import ModelCache
from neuron.worker import NEURONWorker

StartWorker = Callable[..., AbstractAsyncContextManager[NEURONWorker]]


@pytest.fixture
async def cortex() -> AsyncIterator[FakeCortex]:
    async with serving_fake_cortex() as cortex:
        yield cortex


@pytest.fixture
async def engines() -> FakeEngines:
    return FakeEngines()


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    """A cache that already has the models of the jobs."""
    cache = ModelCache(tmp_path / "cache")
    for family in ("tiny", "small", "big"):
        (files := tmp_path / family).mkdir()
        (files / "config.json").write_text("{}")
        cache.set(f"{family}:1", files)
    return cache.cache_dir


@pytest.fixture
def worker_settings(cortex: FakeCortex, cache_dir: Path) -> Callable[..., Settings]:
    def make(**given: Any) -> Settings:
        plain: dict[str, Any] = {
            "cortex_grpc_url": f"127.0.0.1:{cortex.port}",
            "cortex_timeout": 5,
            "genome_http_url": "http://127.0.0.1:9",
            "minio_endpoint": f"file://{cache_dir.parent / 'engram'}",
            "supported_runtimes": "transformers",
            "max_concurrent_jobs": 4,
            "heartbeat_interval": 0.2,
            "shutdown_timeout": 5,
            "model_cache_dir": cache_dir,
            "api_host": "127.0.0.1",
            "api_port": 0,
        }
        return Settings(**(plain | given))

    return make


@pytest.fixture
def start_worker(engines: FakeEngines, worker_settings: Callable[..., Settings]) -> StartWorker:
    """Run a worker for the length of a block; it is ready unless `ready=False`."""

    @asynccontextmanager
    async def start(*, ready: bool = True, **given: Any) -> AsyncIterator[NEURONWorker]:
        worker = NEURONWorker(worker_settings(**given), engine_factory=engines)
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.start())
            try:
                if ready:
                    async with asyncio.timeout(10):
                        await worker.ready.wait()
                yield worker
            finally:
                worker.request_stop_now("the test ended")

    return start
