"""What engines may hold, what a model is taken to need, and who goes when it was too little."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, FakeEngines

from neuron.models.runtime import RuntimeType
from neuron.models.worker import GPUInfo, SystemResources
from neuron.services.engine import EngineKey
from neuron.services.memory_budget import RAM, MemoryBudget, measure_demand
from neuron.services.memory_guard import MemoryGuard
from neuron.services.resident import Resident, ResidentState

MIB = 2**20


def resources(*gpus_mb: int) -> SystemResources:
    return SystemResources(
        cpu_count=2,
        cpu_percent=0,
        memory_total_mb=16000,
        memory_available_mb=10000,
        disk_total_gb=1,
        disk_available_gb=1,
        gpus=[
            GPUInfo(
                index=index,
                name="GPU",
                total_memory_mb=size,
                available_memory_mb=size,
                utilization_percent=0,
            )
            for index, size in enumerate(gpus_mb)
        ],
    )


def key(runtime: RuntimeType, **config: Any) -> EngineKey:
    return EngineKey("m", "1", runtime, json.dumps(config))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of 100 MiB that is stored in bfloat16."""
    (tmp_path / "config.json").write_text('{"dtype": "bfloat16"}')
    with (tmp_path / "model.safetensors").open("wb") as weights:
        weights.truncate(100 * MIB)
    return tmp_path


def test_the_budget_is_what_is_free_or_what_the_operator_grants() -> None:
    assert MemoryBudget.of(resources(), None).limits == {RAM: 9000}
    assert MemoryBudget.of(resources(500), 4000).limits == {RAM: 4000, "gpu0": 500}


def test_each_pool_is_counted_by_itself() -> None:
    budget = MemoryBudget({RAM: 1000, "gpu0": 800, "gpu1": 800})
    held = [{RAM: 100, "gpu0": 700}]

    assert budget.lacking({RAM: 100, "gpu0": 200}, held) == "gpu0"
    assert budget.lacking({RAM: 100, "gpu1": 200}, held) is None
    assert budget.lacking({"gpu7": 1}, held) == "gpu7"
    assert budget.free(held) == {RAM: 900, "gpu0": 100, "gpu1": 800}


@pytest.mark.parametrize(
    ("runtime", "config", "gpus", "expected"),
    [
        (RuntimeType.TRANSFORMERS, {}, (), {RAM: 100 * 2 * 1.2 + 350}),
        (RuntimeType.TRANSFORMERS, {"torch_dtype": "bfloat16"}, (), {RAM: 100 * 1.2 + 350}),
        (RuntimeType.PYTORCH, {"dtype": "float16"}, (), {RAM: 100 * 1.2 + 300}),
        (RuntimeType.TRANSFORMERS, {}, (800,), {"gpu0": 100 * 1.2 + 350, RAM: 2048}),
        (RuntimeType.TRANSFORMERS, {"device": "cpu"}, (800,), {RAM: 100 * 2 * 1.2 + 350}),
        (RuntimeType.PYTORCH, {"device": "cuda:1"}, (8, 800), {"gpu1": 420, RAM: 2048}),
        (RuntimeType.VLLM, {}, (1000,), {"gpu0": 900, RAM: 2048}),
        (
            RuntimeType.VLLM,
            {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5},
            (1000, 1000, 1000),
            {"gpu0": 500, "gpu1": 500, RAM: 2048},
        ),
    ],
)
async def test_a_model_is_taken_to_need_what_its_files_and_config_say(
    folder: Path,
    runtime: RuntimeType,
    config: dict[str, Any],
    gpus: tuple[int, ...],
    expected: dict[str, float],
) -> None:
    budget = MemoryBudget.of(resources(*gpus), None)

    demand = await measure_demand(key(runtime, **config), folder, budget)

    assert demand.need == {pool: int(size) for pool, size in expected.items()}
    assert demand.least_mb == 100


async def test_a_folder_without_a_readable_config_is_estimated_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[")

    demand = await measure_demand(key(RuntimeType.TRANSFORMERS), tmp_path, MemoryBudget({RAM: 1}))

    assert demand.need == {RAM: 350}


# ---------------------------------------------------------------- the guard

_HOLD = "data = bytearray({size}); data[::4096] = b'x' * len(data[::4096]); print(flush=True)"


@pytest.fixture
def holder() -> Iterator[Any]:
    """Starts processes that hold as many MiB as they are told."""
    processes = []

    def start(size_mb: int) -> int:
        code = _HOLD.format(size=size_mb * MIB) + "; input()"
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def resident(engines: FakeEngines, pid: int, share_mb: int) -> Resident:
    engine = FakeEngine(engines, "m:1")
    engine.pid = pid
    made = Resident(key(RuntimeType.PYTORCH), engine, footprint={RAM: share_mb})
    made.state = ResidentState.READY
    return made


async def test_the_engine_that_outgrew_its_share_the_most_is_ended(holder: Any) -> None:
    engines = FakeEngines()
    modest = resident(engines, holder(150), share_mb=200)
    greedy = resident(engines, holder(120), share_mb=20)
    guard = MemoryGuard(lambda: [modest, greedy], lambda: MemoryBudget({RAM: 200}))

    await guard.run_once()

    assert isinstance(modest.engine, FakeEngine)
    assert isinstance(greedy.engine, FakeEngine)
    assert modest.engine.condemned is None
    assert "200 MB of memory for models" in str(greedy.engine.condemned)


async def test_engines_within_the_budget_are_left_alone(holder: Any) -> None:
    engines = FakeEngines()
    one = resident(engines, holder(50), share_mb=1)
    guard = MemoryGuard(lambda: [one], lambda: MemoryBudget({RAM: 500}))

    await guard.run_once()

    assert isinstance(one.engine, FakeEngine)
    assert one.engine.condemned is None
