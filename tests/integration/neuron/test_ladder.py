"""How a worker steps down: memory that runs out, engines that die, runtimes that cannot start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fake_cortex import FakeCortex
from fake_engine import FakeEngines

from mnemos.protocol.v1 import cortex_pb2 as pb
from neuron.errors import OutOfMemoryError, RuntimeUnavailableError
from neuron.models.worker import WorkerStatus
from neuron.worker import NEURONWorker

StartWorker = Callable[..., AbstractAsyncContextManager[NEURONWorker]]


async def test_a_model_that_does_not_fit_is_handed_back_for_a_bigger_worker(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    engines.load_errors = {"big:1": [OutOfMemoryError("CUDA out of memory")] * 9}
    async with start_worker(engine_memory_mb=4000):
        job = cortex.submit("job_1", family="big")
        await cortex.until(lambda: bool(job.needs))

    assert job.result is None, "it is no failure of the job's"
    assert job.needs[0].min_memory_mb == 4001
    assert "4000 MB of memory" in job.released[0]
    offered = {request.memory_available_mb for request in cortex.acquires}
    assert max(offered) <= 4000, "a worker must not offer more than it would use"


async def test_an_engine_s_death_tells_how_many_jobs_it_ran(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "die")
        await cortex.until(lambda: job.state == "done")

    assert job.result is not None
    assert job.result.error_details.engine_jobs == 1


async def test_a_job_that_engines_died_under_runs_alone(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker():
        neighbour = cortex.submit("job_1", "wait")
        await cortex.until(lambda: "executing" in neighbour.statuses)
        suspect = cortex.submit("job_2", "tokens 1", engine_crashes=2)
        healthy = cortex.submit("job_3", "tokens 1", family="small")
        await cortex.until(lambda: healthy.state == "done")
        assert suspect.state == "running"
        assert engines.made[0].asked == ["wait"], "the suspect must wait"
        engines.go.set()
        await cortex.until(lambda: suspect.state == "done" and neighbour.state == "done")

    assert engines.made[0].asked == ["wait", "tokens"]


async def test_a_runtime_that_cannot_start_is_taken_back_and_the_worker_says_why(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    engines.runtime_error = RuntimeUnavailableError("libtorch.so is missing")
    async with start_worker() as worker:
        jobs = []
        for index in range(3):
            job = cortex.submit(f"job_{index}", "tokens 1")
            await cortex.until(lambda job=job: job.state == "done")  # type: ignore[misc]
            jobs.append(job)
        await cortex.until(
            lambda: (
                not cortex.registrations[-1].capabilities.supported_runtimes
                or "transformers" in cortex.registrations[-1].capabilities.unavailable_runtimes
            )
        )
        reasons = " ".join(worker.view.not_ready_because())
        async with asyncio.timeout(5):
            await cortex.until(lambda: "libtorch.so" in cortex.heartbeats[-1].status_reason)
        assert worker.status is WorkerStatus.ERROR

    assert "libtorch.so is missing" in reasons
    assert jobs[0].result is not None
    assert jobs[0].result.error_details.code == pb.ERROR_CODE_RUNTIME_UNAVAILABLE


async def test_a_pinned_model_that_cannot_be_had_keeps_no_job_waiting(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker(pinned_models="tiny:1", genome_http_url="http://127.0.0.1:9"):
        # GENOME is away: the model is tried again, and the worker works meanwhile.
        job = cortex.submit("job_1", "tokens 1", family="small")
        await cortex.until(lambda: job.state == "done")

    assert engines.loads == ["small:1"]
