"""Custom models in real engine processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_torch
import torch
from tiny_torch import Order

from neuron.errors import EngineCrashedError, InvalidInputError, RuntimeUnavailableError
from neuron.models.job import JobInput, JobOutput
from neuron.models.runtime import RuntimeType
from neuron.runtimes.engine_client import EngineClient
from neuron.runtimes.registry import runtime_availability

LOAD_SECONDS = 60
ROW = {"x": [1, 2, 3, 4]}


async def answer(engine: EngineClient, given: JobInput) -> JobOutput:
    async with aclosing(engine.generate(given)) as generations:
        async for piece in generations:
            if piece.output is not None:
                return piece.output
    raise AssertionError("no output")


def test_the_runtime_is_offered() -> None:
    assert runtime_availability(RuntimeType.PYTORCH) is None


@pytest.mark.parametrize("form", ["exported", "script", "weights"])
async def test_jobs_share_calls_across_the_process_border(make_engine: Any, form: str) -> None:
    engine = make_engine(form, batch_size=16)
    await engine.start(LOAD_SECONDS)
    assert engine.memory_mb > 10
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(answer(engine, JobInput(inputs=[{"x": [number, 0, 0, 1]}])))
            for number in range(32)
        ]
    outputs = [task.result() for task in tasks]
    assert max(output.metadata["largest_batch"] for output in outputs) > 4
    assert len({output.result[0]["logits"][0] for output in outputs}) > 20
    alone = await answer(engine, JobInput(inputs=[{"x": [5, 0, 0, 1]}]))
    assert alone.result[0]["logits"] == pytest.approx(outputs[5].result[0]["logits"], abs=1e-5)


async def test_rows_that_come_as_requests_of_their_own_share_calls_as_well(
    make_engine: Any,
) -> None:
    engine = make_engine("exported", batch_size=32)
    await engine.start(LOAD_SECONDS)
    rows = [{"x": [number, 0, 0, 1]} for number in range(512)]
    whole = await measured(engine, [JobInput(inputs=rows)])
    single = await measured(engine, [JobInput(inputs=[row]) for row in rows])
    assert single.results == whole.results
    assert whole.calls == len(rows) // 32
    assert single.calls <= 1.5 * whole.calls, "rows went alone although others were there"
    assert single.seconds < whole.seconds + len(rows) * 0.002


@dataclass(frozen=True)
class Measured:
    results: list[Any]
    calls: int
    seconds: float


async def measured(engine: EngineClient, jobs: list[JobInput]) -> Measured:
    """Ask all at once; the rows' results, and what it took."""
    calls, began = await steps(engine), time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(answer(engine, given)) for given in jobs]
    seconds = time.monotonic() - began
    results = [
        [round(number, 3) for number in row["logits"]]
        for task in tasks
        for row in task.result().result
    ]
    return Measured(results, await steps(engine) - calls, seconds)


async def steps(engine: EngineClient) -> int:
    """The engine's steps, once it is idle."""
    seen = (-1, -1)
    while seen != (0, engine.steps):
        seen = (engine.engine_requests, engine.steps)
        engine.ping()
        await asyncio.sleep(0.02)
    return engine.steps


async def test_a_compiled_model_answers_as_the_plain_one(make_engine: Any) -> None:
    plain, compiled = make_engine("exported"), make_engine("exported", batch_size=4, compile=True)
    await plain.start(LOAD_SECONDS)
    await compiled.start(2 * LOAD_SECONDS)
    assert psutil.Process(compiled.pid).children() == [], "the compiler's helpers are still there"

    given = JobInput(inputs=[ROW] * 4)
    wanted = (await answer(plain, given)).result[3]["logits"]

    assert (await answer(compiled, given)).result[3]["logits"] == pytest.approx(wanted, rel=1e-4)


async def test_a_bad_row_crosses_the_border_as_itself(make_engine: Any) -> None:
    engine = make_engine("exported")
    await engine.start(LOAD_SECONDS)
    with pytest.raises(InvalidInputError, match=r"expected float32 of shape \[4\]") as caught:
        await answer(engine, JobInput(inputs=[{"x": [1]}]))
    assert caught.value.details["input"] == "x"
    assert (await answer(engine, JobInput(inputs=[ROW]))).metadata["rows"] == 1


async def test_a_cancelled_job_leaves_the_engine(
    make_engine: Any, until: Callable[..., Any]
) -> None:
    engine = make_engine("exported")
    await engine.start(LOAD_SECONDS)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(answer(engine, JobInput(inputs=[ROW] * 20_000)))
        await until(lambda: engine.active_requests == 1)
        task.cancel()

    def is_idle() -> bool:
        engine.ping()
        return bool(engine.engine_requests == 0)

    await until(is_idle, seconds=0.2)
    assert (await answer(engine, JobInput(inputs=[ROW]))).metadata["rows"] == 1


async def test_a_call_under_way_ends_before_the_next_request_is_served(
    make_engine: Any, until: Callable[..., Any]
) -> None:
    engine = make_engine("trouble")
    await engine.start(LOAD_SECONDS)
    began = time.monotonic()
    slow = JobInput(inputs=[{"x": [Order.SLOW.value, 0.5, 0, 0]}] * 20)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await answer(engine, slow)
    assert time.monotonic() - began < 0.4, "cancelling waited for the engine"
    assert engine.active_requests == 0
    assert (await answer(engine, JobInput(inputs=[ROW]))).metadata["rows"] == 1
    assert 0.4 < time.monotonic() - began < 3, "more than the call under way was computed"


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model.pth"])
async def test_pickles_are_the_operators_decision(
    make_engine: Any, tmp_path: Path, name: str
) -> None:
    folder = tiny_torch.write_weights(tmp_path / "tiny" / "pickle")
    (folder / "model.safetensors").unlink()
    torch.save(tiny_torch.seeded(tiny_torch.TinyMLP).state_dict(), folder / name)
    engine = make_engine("pickle")
    with pytest.raises(InvalidInputError, match=rf"{name}.*NEURON_ALLOW_PICKLE=true"):
        await engine.start(LOAD_SECONDS)
    assert engine.runtime_started
    assert not psutil.pid_exists(engine.pid)


async def test_a_class_that_no_operator_installed_is_named(
    make_engine: Any, tmp_path: Path
) -> None:
    tiny_torch.write_weights(tmp_path / "tiny" / "stranger", entry_point="stranger")
    engine = make_engine("stranger")
    with pytest.raises(RuntimeUnavailableError) as caught:
        await engine.start(LOAD_SECONDS)
    assert "needs the model class stranger, which is not installed" in caught.value.message
    assert "neuron.pytorch_models" in caught.value.message
    assert engine.runtime_started, "the model lacks something, the runtime does not"


async def test_script_that_writes_files_is_the_operators_decision(
    make_engine: Any, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    tiny_torch.write_script(tmp_path / "tiny" / "writer", tiny_torch.FileWriter(str(proof)))
    with pytest.raises(InvalidInputError, match="NEURON_ALLOW_REMOTE_CODE=true"):
        await make_engine("writer").start(LOAD_SECONDS)
    assert not proof.exists()


@pytest.mark.parametrize("field", ["trust_remote_code", "handler", "allow_pickle"])
async def test_no_job_can_ask_for_code_to_run(make_engine: Any, field: str) -> None:
    engine = make_engine("exported", **{field: True})
    with pytest.raises(InvalidInputError, match=f"runtime_config: {field}"):
        await engine.start(LOAD_SECONDS)
    assert engine.pid is None


async def test_a_killed_engine_fails_its_jobs_and_is_gone(
    make_engine: Any, until: Callable[..., Any]
) -> None:
    engine = make_engine("exported")
    await engine.start(LOAD_SECONDS)

    async def kill_when_busy() -> None:
        await until(lambda: engine.active_requests == 1)
        os.kill(engine.pid, signal.SIGKILL)

    async with asyncio.TaskGroup() as group:
        group.create_task(kill_when_busy())
        with pytest.raises(EngineCrashedError, match="SIGKILL"):
            await answer(engine, JobInput(inputs=[ROW] * 20_000))
    assert not psutil.pid_exists(engine.pid)
