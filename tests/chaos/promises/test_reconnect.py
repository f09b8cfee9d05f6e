"""A fleet comes back after CORTEX was away, soon, not all at once, and goes on with its jobs.

The workers are the product's own, all but their processes: each has its connection, its leases,
its outbox and its patience.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from figures import Figures, Scale
from live_cortex import LiveCortex, live_cortex, text_job

from neuron.clients import cortex_client
from neuron.config import Settings
from neuron.worker import NEURONWorker

pytestmark = pytest.mark.timeout(900)

BACK_SECONDS = 30.0
TWICE_SHARE = 0.01
RUNNING_SHARE = 0.3
"""Of the jobs, so many at least must outlast the outage."""
TOKENS = 5
START_SECONDS = 240.0
START_AT_ONCE = 20
LOOK_SECONDS = 0.05


@pytest.fixture(autouse=True)
def _as_if_each_were_a_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers of one process would share a connection, and log a thousand lines about it."""
    options = [*cortex_client._CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    monkeypatch.setattr(cortex_client, "_CHANNEL_OPTIONS", options)
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet, logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


def echo_job(seconds: float) -> dict[str, Any]:
    """A job that takes about so long and costs nothing."""
    model = {"family": "echo", "version": "1", "runtime": "echo"}
    config = {"token_seconds": seconds / TOKENS}
    parameters = {"max_tokens": TOKENS, "stream": False}
    return text_job(
        model={**model, "runtime_config": config},
        input={"prompt": "one two three", "parameters": parameters},
    )


@asynccontextmanager
async def fleet(cortex: LiveCortex, root: Path, count: int) -> AsyncIterator[list[NEURONWorker]]:
    """Run workers of one slot each; they end without a word when the context does."""
    workers = [
        NEURONWorker(
            Settings(
                cortex_grpc_url=cortex.grpc_address,
                genome_http_url="http://127.0.0.1:9",
                minio_endpoint=f"file://{root / 'engram'}",
                supported_runtimes="echo",
                max_concurrent_jobs=1,
                model_cache_dir=root / "cache",
                outbox_dir=root / f"outbox-{number}",
                api_host="127.0.0.1",
                api_port=0,
            )
        )
        for number in range(count)
    ]
    turn = asyncio.Semaphore(START_AT_ONCE)

    async def begin(group: asyncio.TaskGroup, worker: NEURONWorker) -> None:
        async with turn:
            group.create_task(worker.start())
            await worker.ready.wait()

    async with asyncio.TaskGroup() as group:
        async with asyncio.timeout(START_SECONDS), asyncio.TaskGroup() as starting:
            for worker in workers:
                starting.create_task(begin(group, worker))
        try:
            yield workers
        finally:
            for worker in workers:
                worker.request_stop_now("the test ended")


def has_contact(worker: NEURONWorker) -> bool:
    """Whether CORTEX answered the worker's last call."""
    assert worker.view.parts is not None
    return worker.view.parts.cortex.last_error is None


def still_runs(worker: NEURONWorker) -> bool:
    """Whether its job has not ended yet; the result of one that has waits for CORTEX."""
    assert worker.view.parts is not None
    return any(run.outcome is None for run in worker.view.parts.executor.active_jobs.values())


async def all_notice(workers: list[NEURONWorker]) -> None:
    while any(map(has_contact, workers)):  # noqa: ASYNC110 - looks into workers, from outside
        await asyncio.sleep(LOOK_SECONDS)


async def all_run(workers: list[NEURONWorker]) -> None:
    while not all(worker.view.info()["current_jobs"] for worker in workers):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS)


async def times_of_return(workers: list[NEURONWorker]) -> list[float]:
    """Return after how many seconds each was back, shortest first; waits for all of them."""
    clock = asyncio.get_running_loop().time
    began = clock()
    away, times = set(workers), []
    while away:
        assert clock() - began < 2 * BACK_SECONDS, f"{len(away)} workers are not back"
        back = {worker for worker in away if has_contact(worker)}
        times += [clock() - began] * len(back)
        away -= back
        await asyncio.sleep(LOOK_SECONDS)
    return times


def note(figures: Figures, times: list[float]) -> None:
    count = len(times)
    largest = max(Counter(map(int, times)).values())
    figures.note("workers", count)
    figures.note("back p50", times[count // 2], "s")
    figures.note("p99", times[count * 99 // 100], "s")
    figures.note("max", times[-1], "s")
    figures.note("most in one second", largest)


async def test_reconnect(tmp_path: Path, scale: Scale, figures: Figures) -> None:
    count, outage_seconds = scale.of(500, 200), scale.of(60, 10)
    lease_seconds = 15.0 if scale.long else 6.0
    chance = random.Random(count)
    async with (
        live_cortex(tmp_path, lease_seconds=lease_seconds) as cortex,
        fleet(cortex, tmp_path, count) as workers,
    ):
        lengths = [outage_seconds * chance.uniform(0.5, 1.8) for _ in workers]
        jobs = await cortex.submit([echo_job(length) for length in lengths])
        async with asyncio.timeout(30):
            await all_run(workers)
        await cortex.kill()
        async with asyncio.timeout(outage_seconds):
            await all_notice(workers)
        await asyncio.sleep(outage_seconds)
        running = sum(map(still_runs, workers))
        await cortex.start()
        times = await times_of_return(workers)
        async with asyncio.timeout(4 * outage_seconds):
            for job_id in jobs:
                await cortex.whole_stream(job_id)
        shown = [await cortex.job(job_id) for job_id in jobs]

    twice = sum(job["attempt"] > 1 for job in shown)
    outcomes = Counter(one["outcome"] for job in shown for one in job["attempts"])
    note(figures, times)
    figures.note("CORTEX away", outage_seconds, "s")
    figures.note("lease", lease_seconds, "s")
    figures.note("jobs still running then", running)
    figures.note("jobs that ran twice", twice)
    figures.note("attempts", ", ".join(f"{k} {n}" for k, n in sorted(outcomes.items())))
    assert {job["status"] for job in shown} == {"completed"}
    assert outcomes["completed"] == count
    assert running >= RUNNING_SHARE * count, "the jobs were too short to outlast it"
    assert times[-1] <= BACK_SECONDS
    assert twice <= TWICE_SHARE * count
