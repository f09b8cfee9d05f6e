"""Engines that hang, crash, grow and start processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_torch import Order

from neuron.errors import EngineCrashedError
from neuron.models.job import JobInput, JobOutput
from neuron.runtimes.engine_client import EngineClient
from neuron.runtimes.engine_process import NICENESS
from neuron.utils.process_memory import private_bytes

LOAD_SECONDS = 60
GONE_SECONDS = 5
ROW = {"x": [1, 2, 3, 4]}
WORKER = """
import asyncio, sys
from pathlib import Path
from neuron.models.job import JobInput
from neuron.models.runtime import RuntimeType
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.engine_client import EngineClient

async def main():
    cache, python, order = sys.argv[1:]
    settings = EngineSettings(model_cache_dir=Path(cache), python={RuntimeType.PYTORCH: python})
    engine = EngineClient(RuntimeType.PYTORCH, "tiny", "trouble", {}, settings)
    await engine.start(60)
    async for _ in engine.generate(JobInput(inputs=[{"x": [int(order), 3600, 0, 0]}])):
        print(engine.pid, flush=True)
    await engine.wait_closed()

asyncio.run(main())
"""


def row(order: Order, amount: float = 0) -> dict[str, Any]:
    return {"x": [order.value, amount, 0, 0]}


async def answer(engine: EngineClient, *rows: dict[str, Any]) -> JobOutput:
    async with aclosing(engine.generate(JobInput(inputs=list(rows)))) as generations:
        async for piece in generations:
            if piece.output is not None:
                return piece.output
    raise AssertionError("no output")


async def fate(engine: EngineClient, *rows: dict[str, Any]) -> EngineCrashedError:
    with pytest.raises(EngineCrashedError) as caught:
        await answer(engine, *rows)
    return caught.value


async def fates(engine: EngineClient, order: Order) -> list[EngineCrashedError]:
    """What becomes of a row with an order and of two that wait behind it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fate(engine, one)) for one in (row(order), ROW, ROW)]
    return [task.result() for task in tasks]


async def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, GONE_SECONDS)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def readiness_to_die(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def spawned(engine: EngineClient) -> list[psutil.Process]:
    """Have the engine start its three processes."""
    await answer(engine, row(Order.SPAWN, 3600))
    return await descendants(psutil.Process(engine.pid), 3)


async def descendants(process: psutil.Process, count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + GONE_SECONDS
    while len(found := process.children(recursive=True)) < count:
        assert time.monotonic() < deadline, f"only {found} were started"
        await asyncio.sleep(0.01)
    return found


async def test_a_call_that_hangs_ends_the_engine_and_tells_everyone(make_engine: Any) -> None:
    engine = make_engine("trouble", stall_seconds=1)
    await engine.start(LOAD_SECONDS)
    began = time.monotonic()
    errors = await fates(engine, Order.HANG)
    assert 1 <= time.monotonic() - began < 1 + GONE_SECONDS
    for error in errors:
        words = "the engine for tiny:trouble made no progress for 1 s and was ended"
        assert error.message == words
        assert error.details["engine_jobs"] == 3
    assert not engine.is_alive
    assert not psutil.pid_exists(engine.pid)
    late = await fate(engine, ROW)
    assert late.details["engine_jobs"] == 0, "it was not in the engine"


async def test_a_hang_that_stops_every_thread_is_seen_too(make_engine: Any) -> None:
    engine = make_engine("trouble", stall_seconds=1)
    await engine.start(LOAD_SECONDS)
    for error in await fates(engine, Order.HOLD_GIL):
        assert error.message == "the engine for tiny:trouble has not answered for 1 s and was ended"
        assert error.details["exit"] == "has not answered for 1 s and was ended"


async def test_cancelling_what_hangs_does_not_hide_the_hang(make_engine: Any) -> None:
    engine = make_engine("trouble", stall_seconds=1)
    await engine.start(LOAD_SECONDS)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await answer(engine, row(Order.HANG))
    async with asyncio.timeout(1 + GONE_SECONDS):
        await engine.wait_closed()


async def test_a_stopped_engine_is_ended_although_it_is_idle(make_engine: Any) -> None:
    engine = make_engine("trouble", stall_seconds=1)
    await engine.start(LOAD_SECONDS)
    os.kill(engine.pid, signal.SIGSTOP)
    async with asyncio.timeout(1 + GONE_SECONDS):
        await engine.wait_closed()
    assert not engine.is_alive


async def test_work_that_takes_long_is_no_hang(make_engine: Any) -> None:
    engine = make_engine("trouble", stall_seconds=0.8)
    await engine.start(LOAD_SECONDS)
    output = await answer(engine, *[row(Order.SLOW, 0.4)] * 6)
    assert output.metadata["rows"] == 6
    assert output.metrics["latency_ms"] > 2400


async def test_a_segfault_costs_the_engine_and_says_so(make_engine: Any) -> None:
    engine = make_engine("trouble")
    await engine.start(LOAD_SECONDS)
    for error in await fates(engine, Order.SEGFAULT):
        assert "died (signal 11, SIGSEGV)" in error.message
        assert error.details["exit"] == "signal 11, SIGSEGV"
        assert error.details["engine_jobs"] == 3
        assert any("loaded tiny:trouble" in line for line in error.details["last_lines"])


async def test_a_condemned_engine_tells_the_reason(
    make_engine: Any, until: Callable[..., Any]
) -> None:
    engine = make_engine("trouble")
    await engine.start(LOAD_SECONDS)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(fate(engine, row(Order.SLOW, 3600)))
        await until(lambda: engine.active_requests == 1)
        engine.condemn("it grew over its memory")
        engine.condemn("another reason")
        assert not engine.is_alive
    error = task.result()
    assert error.message == "the engine for tiny:trouble was ended: it grew over its memory"
    assert error.details["engine_jobs"] == 1
    await engine.wait_closed()
    engine.condemn("it is gone")


async def test_an_engine_condemned_while_it_loads_says_so(
    make_engine: Any, until: Callable[..., Any]
) -> None:
    engine = make_engine("trouble")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_failed_start(engine))
        await until(lambda: engine.pid is not None)
        engine.condemn("there is no room")
    assert task.result().message == "the engine for tiny:trouble was ended: there is no room"
    assert not psutil.pid_exists(engine.pid)


async def _failed_start(engine: EngineClient) -> EngineCrashedError:
    with pytest.raises(EngineCrashedError) as caught:
        await engine.start(LOAD_SECONDS)
    return caught.value


async def test_what_an_engine_allocates_can_be_seen_from_outside(make_engine: Any) -> None:
    engine = make_engine("trouble")
    await engine.start(LOAD_SECONDS)
    before = private_bytes(engine.pid)
    await answer(engine, row(Order.ALLOCATE, 100))
    assert 95 << 20 < private_bytes(engine.pid) - before < 200 << 20


async def test_when_memory_runs_out_the_kernel_takes_engines_first(make_engine: Any) -> None:
    engine = make_engine("trouble")
    await engine.start(LOAD_SECONDS)
    children = await spawned(engine)
    assert [readiness_to_die(one.pid) for one in (engine, *children)] == [1000] * 4
    guard = psutil.Process(engine.pid).ppid()
    assert readiness_to_die(guard) == readiness_to_die(os.getpid())


async def test_engines_give_way_to_the_worker(make_engine: Any) -> None:
    engine = make_engine("trouble")
    await engine.start(LOAD_SECONDS)
    children = await spawned(engine)
    own = psutil.Process().nice()
    assert [psutil.Process(one.pid).nice() for one in (engine, *children)] == [own + NICENESS] * 4


@pytest.mark.parametrize("end", ["stop", "condemn", "kill -9", "segfault"])
async def test_however_an_engine_ends_it_leaves_no_process(make_engine: Any, end: str) -> None:
    engine = make_engine("trouble")
    await engine.start(LOAD_SECONDS)
    children = await spawned(engine)
    match end:
        case "stop":
            await engine.stop()
        case "condemn":
            engine.condemn("its time has come")
        case "kill -9":
            os.kill(engine.pid, signal.SIGKILL)
        case _:
            await fate(engine, row(Order.SEGFAULT))
    async with asyncio.timeout(GONE_SECONDS):
        await engine.wait_closed()
    assert [child for child in children if child.is_running()] == []


@pytest.mark.parametrize("hangs", [False, True])
async def test_kill_9_of_the_worker_leaves_no_process(
    cache: Path, python: str, hangs: bool
) -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, str(cache), python, str(Order.SPAWN.value),
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert worker.stdout is not None
    engine = psutil.Process(int(await worker.stdout.readline()))
    family = [engine, *engine.parents()[:1], *await descendants(engine, 3)]
    if hangs:
        engine.suspend()
    worker.kill()
    await worker.wait()
    await assert_gone(family)


async def test_kill_9_of_the_guard_takes_the_engine_along(make_engine: Any) -> None:
    engine = make_engine("trouble")
    await engine.start(LOAD_SECONDS)
    process = psutil.Process(engine.pid)
    os.kill(process.ppid(), signal.SIGKILL)
    error = await fate(engine, row(Order.SLOW, 3600))
    assert "SIGKILL" in error.message
    await assert_gone([process])
