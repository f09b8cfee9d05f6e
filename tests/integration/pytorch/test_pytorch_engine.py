"""Custom models in real engine processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import psutil
import pytest

from neuron.errors import EngineCrashedError, InvalidInputError
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

    await until(is_idle)
    assert (await answer(engine, JobInput(inputs=[ROW]))).metadata["rows"] == 1


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
