"""Real vLLM in an environment of its own: `make test-vllm` builds it and names it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
import pytest_asyncio
from tiny_llama import build_tiny_llama
from tiny_lora import build_tiny_lora
from tiny_pooling import build_tiny_classifier, build_tiny_embedder

from neuron.models.runtime import RuntimeType
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.engine_client import EngineClient

CONTEXT = 512
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the environment there is nothing to test; loading vLLM takes its time."""
    missing = pytest.mark.skip(reason="NEURON_VLLM_PYTHON names no Python with vLLM")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(300))
            if not os.environ.get("NEURON_VLLM_PYTHON"):
                item.add_marker(missing)


@pytest.fixture(scope="session", autouse=True)
def small_cache() -> None:
    """One GiB for keys and values: the machine has other things to do."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model cache that holds tiny:1, and tiny:small-heads, which vLLM cannot run on a CPU.

    There are adapters for tiny:1 too, and models that read texts: tiny:embeds, tiny:classifies.
    """
    root = tmp_path_factory.mktemp("models")
    build_tiny_llama(root / "tiny" / "1", hidden_size=128, context=CONTEXT)
    build_tiny_llama(root / "tiny" / "small-heads")
    build_tiny_embedder(root / "tiny" / "embeds")
    build_tiny_classifier(root / "tiny" / "classifies")
    for seed in (1, 2, 3):
        build_tiny_lora(root / "lora" / str(seed), seed=seed)
    return root


class MakeEngine(Protocol):
    def __call__(
        self, version: str = "1", folder: Path | None = None, **config: Any
    ) -> EngineClient: ...


def make_client(folder: Path, version: str = "1", **config: Any) -> EngineClient:
    settings = EngineSettings(
        model_cache_dir=folder, python={RuntimeType.VLLM: os.environ["NEURON_VLLM_PYTHON"]}
    )
    config = {"dtype": "float32", "max_num_seqs": 64, **config}
    return EngineClient(RuntimeType.VLLM, "tiny", version, config, settings)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(cache: Path) -> AsyncIterator[EngineClient]:
    """One engine with tiny:1 for all tests that leave it as it was."""
    client = make_client(cache)
    await client.start(180)
    yield client
    await client.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def adaptable(cache: Path) -> AsyncIterator[EngineClient]:
    """tiny:1 with room for two adapters in a batch."""
    client = make_client(cache, enable_lora=True, max_loras=2)
    await client.start(180)
    yield client
    await client.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def embedder(cache: Path) -> AsyncIterator[EngineClient]:
    """tiny:embeds, which vLLM knows for what it is."""
    client = make_client(cache, "embeds")
    await client.start(180)
    yield client
    await client.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def classifier(cache: Path) -> AsyncIterator[EngineClient]:
    """tiny:classifies, asked for by its task."""
    client = make_client(cache, "classifies", task="classify")
    await client.start(180)
    yield client
    await client.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def make_engine(cache: Path) -> AsyncIterator[MakeEngine]:
    """Engines that never outlive their test."""
    clients: list[EngineClient] = []

    def make(version: str = "1", folder: Path | None = None, **config: Any) -> EngineClient:
        clients.append(make_client(folder or cache, version, **config))
        return clients[-1]

    yield make
    for client in clients:
        await client.stop(grace_seconds=1)


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """Wait for something to become true, with a deadline."""

    async def wait(condition: Callable[[], bool], seconds: float = 5) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            await asyncio.sleep(0.005)

    return wait


@pytest.fixture(scope="session")
def family_of() -> Callable[[int], list[psutil.Process]]:
    """A process and all that it started, directly or not."""

    def family(pid: int) -> list[psutil.Process]:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]

    return family
