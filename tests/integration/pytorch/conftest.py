"""Tiny custom models of every form, and engines that never outlive their test."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_torch

from neuron.models.runtime import RuntimeType
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.engine_client import EngineClient
from neuron.runtimes.pytorch_runtime import PyTorchRuntime

Load = Callable[..., Awaitable[PyTorchRuntime]]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model cache with tiny:exported, script, weights, text and trouble."""
    root = tmp_path_factory.mktemp("models")
    tiny_torch.write_exported(root / "tiny" / "exported")
    tiny_torch.write_script(root / "tiny" / "script")
    tiny_torch.write_weights(root / "tiny" / "weights")
    tiny_torch.write_text_model(root / "tiny" / "text")
    tiny_torch.write_weights(root / "tiny" / "trouble", entry_point=tiny_torch.TROUBLE)
    return root


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package with the model class's entry point is installed."""
    return tiny_torch.install_entry_point(tmp_path_factory.mktemp("site"))


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model class is installed in this process."""
    monkeypatch.syspath_prepend(site)
    return site


@pytest.fixture
async def load(cache: Path, tmp_path: Path) -> AsyncIterator[Load]:
    """Load a model of the cache, or tmp_path/tiny/<version> where that is there."""
    runtimes: list[PyTorchRuntime] = []

    async def make(version: str, *, allow: str = "", **config: Any) -> PyTorchRuntime:
        root = tmp_path if (tmp_path / "tiny" / version).exists() else cache
        allowed = {f"allow_{allow}": True} if allow else {}
        runtime = PyTorchRuntime(EngineSettings(model_cache_dir=root, **allowed))
        runtimes.append(runtime)
        await runtime.load_model("tiny", version, config)
        return runtime

    yield make
    for runtime in runtimes:
        await runtime.unload_model()


@pytest.fixture
def python(site: Path, tmp_path: Path) -> str:
    """An interpreter that has the model classes' package installed."""
    python = tmp_path / "python"
    path = f"{site}:{Path(tiny_torch.__file__).parent}"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


@pytest.fixture
async def make_engine(
    cache: Path, python: str, tmp_path: Path
) -> AsyncIterator[Callable[..., EngineClient]]:
    engines: list[EngineClient] = []

    def make(version: str, *, stall_seconds: float = 120, **config: Any) -> EngineClient:
        root = tmp_path if (tmp_path / "tiny" / version).exists() else cache
        settings = EngineSettings(model_cache_dir=root, python={RuntimeType.PYTORCH: python})
        engine = EngineClient(
            RuntimeType.PYTORCH, "tiny", version, config, settings, stall_seconds=stall_seconds
        )
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
