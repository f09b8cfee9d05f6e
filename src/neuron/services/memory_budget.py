"""What engines may hold on this machine, and what a model will hold before that is known.

Memory lies in pools: `ram`, and one for each GPU (`gpu0`, …). All sizes are MiB.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.runtime import RuntimeType
from ..models.worker import SystemResources
from .engine import EngineKey

RAM = "ram"
Footprint = Mapping[str, int]
"""How much of each pool something holds."""

RAM_SHARE = 0.9
"""Of the memory that is free when the worker starts, unless NEURON_ENGINE_MEMORY_MB says."""
_MIB = 2**20
_WEIGHTS = (".safetensors", ".gguf", ".pt2", ".pt", ".pth", ".bin")
_PROCESS_MB = {RuntimeType.VLLM: 1500, RuntimeType.TRANSFORMERS: 350, RuntimeType.PYTORCH: 300}
_GPU_HOST_MB = 2048
_WORKING_SHARE = 1.2
_VLLM_CACHE_MB = 4096
_VLLM_GPU_SHARE = 0.9
_HALF = {"float16", "bfloat16"}
_GGUF_EXPANSION = 4
"""Quantised weights are read into float32: eight bits become 32."""


def gpu_pool(index: int) -> str:
    """The name of a GPU's pool."""
    return f"gpu{index}"


class MemoryBudget:
    """The pools' sizes; pure arithmetic over what others hold."""

    def __init__(self, limits: Footprint) -> None:
        self.limits = dict(limits)

    @classmethod
    def of(cls, resources: SystemResources, engine_memory_mb: int | None) -> MemoryBudget:
        """What this machine has free now, or what its operator grants."""
        ram = engine_memory_mb or int(resources.memory_available_mb * RAM_SHARE)
        gpus = {gpu_pool(gpu.index): gpu.available_memory_mb for gpu in resources.gpus}
        return cls({RAM: ram, **gpus})

    @property
    def gpu_count(self) -> int:
        """How many GPUs there are."""
        return len(self.limits) - 1

    def lacking(self, need: Footprint, held: Iterable[Footprint]) -> str | None:
        """The first pool in which `need` does not fit beside what is held; None if it fits."""
        free = self.free(held)
        return next((pool for pool, size in need.items() if size > free.get(pool, 0)), None)

    def free(self, held: Iterable[Footprint]) -> dict[str, int]:
        """What each pool has left."""
        used: Counter[str] = Counter()
        for footprint in held:
            used.update(footprint)
        return {pool: limit - used[pool] for pool, limit in self.limits.items()}


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model asks of memory."""

    need: Footprint
    """An estimate, rather too much than too little; what is measured later counts more."""
    least_mb: int = 0
    """What its weights take in any case."""


async def measure_demand(key: EngineKey, folder: Path, budget: MemoryBudget) -> Demand:
    """What the model in `folder` will ask of memory, from its files and its config."""
    return await asyncio.to_thread(_demand, key, folder, budget)


def _demand(key: EngineKey, folder: Path, budget: MemoryBudget) -> Demand:
    weights = _weights_mb(folder)
    return Demand(_estimate(key.runtime, key.config, folder, weights, budget), weights)


def _estimate(
    runtime: RuntimeType,
    config: Mapping[str, Any],
    folder: Path,
    weights: int,
    budget: MemoryBudget,
) -> dict[str, int]:
    pools = _pools(runtime, config, budget)
    if not pools:
        return {RAM: _ram_mb(runtime, config, folder, weights)}
    if runtime is RuntimeType.VLLM:
        share = float(config.get("gpu_memory_utilization", _VLLM_GPU_SHARE))
        each = {pool: int(budget.limits[pool] * share) for pool in pools}
    else:
        size = int(weights * _WORKING_SHARE) + _PROCESS_MB[runtime]
        each = {pool: size // len(pools) for pool in pools}
    return {**each, RAM: _GPU_HOST_MB}


def _pools(runtime: RuntimeType, config: Mapping[str, Any], budget: MemoryBudget) -> list[str]:
    """The GPUs that the engine will use; none if it runs on the CPU."""
    device = str(config.get("device", "auto"))
    if not budget.gpu_count or device in ("cpu", "mps"):
        return []
    if runtime is RuntimeType.VLLM:
        sizes = ("tensor_parallel_size", "pipeline_parallel_size")
        count = int(config.get(sizes[0], 1)) * int(config.get(sizes[1], 1))
        return [gpu_pool(index) for index in range(min(count, budget.gpu_count))]
    if runtime is RuntimeType.TRANSFORMERS and device == "auto" and budget.gpu_count > 1:
        return [gpu_pool(index) for index in range(budget.gpu_count)]
    _, _, index = device.partition(":")
    pool = gpu_pool(int(index) if index.isdigit() else 0)
    return [pool] if pool in budget.limits else []


def _ram_mb(runtime: RuntimeType, config: Mapping[str, Any], folder: Path, weights: int) -> int:
    size = int(weights * _expansion(config, folder) * _WORKING_SHARE) + _PROCESS_MB[runtime]
    if runtime is RuntimeType.VLLM:
        gib = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "")
        size += int(gib) * 1024 if gib.isdigit() else _VLLM_CACHE_MB
    return size


def _expansion(config: Mapping[str, Any], folder: Path) -> int:
    """How much larger weights become when a CPU reads them into float32."""
    if any(folder.glob("*.gguf")):
        return _GGUF_EXPANSION
    wanted = config.get("torch_dtype", config.get("dtype", "auto"))
    if wanted in _HALF:
        return 1
    return 2 if _stored_dtype(folder) in _HALF else 1


def _stored_dtype(folder: Path) -> str:
    try:
        told = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return ""  # the runtime will say what is wrong with it
    return str(told.get("dtype") or told.get("torch_dtype") or "") if isinstance(told, dict) else ""


def _weights_mb(folder: Path) -> int:
    files = (file for file in folder.rglob("*") if file.suffix in _WEIGHTS and file.is_file())
    return sum(file.stat().st_size for file in files) // _MIB
