"""A tiny model, and engines that never outlive their test."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from tiny_llama import build_tiny_llama

from neuron.models.runtime import RuntimeType
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.engine_client import EngineClient
from neuron.runtimes.transformers_runtime import TransformersRuntime


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model cache that holds tiny:1 with a chat template and tiny:plain without."""
    root = tmp_path_factory.mktemp("models")
    build_tiny_llama(root / "tiny" / "1")
    plain = root / "tiny" / "plain"
    shutil.copytree(root / "tiny" / "1", plain)
    (plain / "chat_template.jinja").unlink()
    return root


@pytest.fixture
async def runtime(cache: Path) -> AsyncIterator[TransformersRuntime]:
    loaded = TransformersRuntime(EngineSettings(model_cache_dir=cache, max_batch_size=16))
    await loaded.load_model("tiny", "1", {})
    yield loaded
    await loaded.unload_model()


class MakeEngine(Protocol):
    def __call__(
        self, version: str = "1", folder: Path | None = None, **config: Any
    ) -> EngineClient: ...


@pytest.fixture
async def make_engine(cache: Path) -> AsyncIterator[MakeEngine]:
    engines: list[EngineClient] = []

    def make(version: str = "1", folder: Path | None = None, **config: Any) -> EngineClient:
        settings = EngineSettings(model_cache_dir=folder or cache, max_batch_size=32)
        engine = EngineClient(RuntimeType.TRANSFORMERS, "tiny", version, config, settings)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await engine.stop(grace_seconds=1)


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait for something to become true, with a deadline."""

    async def wait(condition: Callable[[], bool], seconds: float = 5) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            await asyncio.sleep(0.005)

    return wait
