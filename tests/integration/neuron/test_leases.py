"""The lease: kept while CORTEX answers, let go before anybody else may start the job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fake_cortex import FakeCortex
from fake_engine import FakeEngines

from mnemos.protocol.v1 import cortex_pb2 as pb
from neuron.services.lease_keeper import HURRIED_SECONDS
from neuron.worker import NEURONWorker

StartWorker = Callable[..., AbstractAsyncContextManager[NEURONWorker]]


async def test_a_job_whose_lease_went_to_another_stops_without_a_word(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    cortex.lease_seconds = 0.6
    async with start_worker() as worker:
        job = cortex.submit("job_1", "hang")
        await cortex.until(lambda: "executing" in job.statuses)
        job.holder = "wrk_other"
        await cortex.until(
            lambda: not worker.view.info()["current_jobs"] and bool(cortex.heartbeats)
        )

    assert engines.made[0].cancelled == ["hang"]
    assert job.result is None
    assert job.released == []


async def test_a_worker_that_cannot_renew_stops_before_the_lease_ends_and_hands_back(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    cortex.lease_seconds = 1.0
    async with start_worker():
        job = cortex.submit("job_1", "hang")
        await cortex.until(lambda: "executing" in job.statuses)
        cortex.refuse_renewals = True
        await cortex.until(lambda: bool(job.released))
        assert engines.made[0].cancelled == ["hang"]
        cortex.refuse_renewals = False

    assert "renew" in job.released[0]
    assert job.result is None


async def test_nothing_starts_before_its_first_renewal(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    cortex.lease_seconds = 0.8
    cortex.refuse_renewals = True
    async with start_worker():
        job = cortex.submit("job_1", "tokens 1")
        await cortex.until(lambda: bool(job.released))
        assert engines.made == []
        cortex.refuse_renewals = False
        await cortex.until(lambda: job.state == "done")

    assert job.result is not None
    assert job.result.status == pb.JOB_STATUS_COMPLETED


async def test_all_jobs_are_renewed_in_one_call(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    cortex.lease_seconds = 0.9
    async with start_worker():
        jobs = [cortex.submit(f"job_{index}", "wait") for index in range(4)]
        await cortex.until(lambda: any(len(renewal.jobs) == 4 for renewal in cortex.renewals))
        engines.go.set()
        await cortex.until(lambda: all(job.state == "done" for job in jobs))


async def test_a_new_job_is_confirmed_without_renewing_all_the_others(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    cortex.lease_seconds = 60
    async with start_worker(max_concurrent_jobs=8):
        jobs = []
        for index in range(8):
            job = cortex.submit(f"job_{index}", "wait")
            jobs.append(job)
            await cortex.until(lambda job=job: "executing" in job.statuses)  # type: ignore[misc]  # the loop's own job
        engines.go.set()
        await cortex.until(lambda: all(job.state == "done" for job in jobs))

    assert [len(renewal.jobs) for renewal in cortex.renewals] == [1] * 8


async def test_leases_that_cortex_makes_shorter_are_renewed_sooner(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    cortex.lease_seconds = 60
    async with start_worker():
        first = cortex.submit("job_1", "wait")
        await cortex.until(lambda: "executing" in first.statuses)
        cortex.lease_seconds = 0.9
        second = cortex.submit("job_2", "wait")
        await cortex.until(
            lambda: sum("job_2" in {ref.job_id for ref in r.jobs} for r in cortex.renewals) >= 3
        )
        engines.go.set()
        await cortex.until(lambda: first.state == second.state == "done")

    assert not first.released + second.released


def renewals_of(cortex: FakeCortex, job_id: str) -> int:
    return sum(job_id in {ref.job_id for ref in renewal.jobs} for renewal in cortex.renewals)


async def test_a_worker_whose_stream_breaks_renews_all_the_time_until_the_next_one_stands(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    """Leases of a minute, which the worker would renew every 20 s, while CORTEX suspects it."""
    cortex.lease_seconds = 60
    async with start_worker() as worker:
        job = cortex.submit("job_1", "wait")
        await cortex.until(lambda: "executing" in job.statuses and bool(cortex.watches))
        assert cortex.watches[0].instance_id == cortex.registrations[0].instance_id
        before = renewals_of(cortex, "job_1")
        cortex.refuse_watches = True
        cortex.watch_cuts += 1
        await cortex.until(lambda: renewals_of(cortex, "job_1") >= before + 3, seconds=5)

        cortex.refuse_watches = False
        cortex.refuse_renewals = True
        await cortex.until(lambda: len(cortex.watches) == 2)
        before = renewals_of(cortex, "job_1")
        cortex.refuse_renewals = False
        await cortex.until(lambda: renewals_of(cortex, "job_1") == before + 1, seconds=5)
        calm = asyncio.get_running_loop().time() + 2 * HURRIED_SECONDS
        await cortex.until(lambda: asyncio.get_running_loop().time() > calm)
        assert renewals_of(cortex, "job_1") == before + 1, "it still hurries"
        engines.go.set()
        await cortex.until(lambda: job.state == "done")
        assert worker.view.info()["worker_id"]

    assert job.attempt == 1
    assert len(cortex.registrations) == 1, "it registered after its goodbye"


async def test_the_stream_of_actions_stands_until_the_goodbye(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    order: list[str] = []
    watch, goodbye = cortex.WatchActions, cortex.DeregisterWorker

    async def watched(request: Any, context: Any) -> Any:
        try:
            async for message in watch(request, context):
                yield message
        finally:
            order.append("stream")

    async def left(request: Any, context: Any) -> Any:
        order.append("goodbye")
        return await goodbye(request, context)

    cortex.WatchActions = watched  # type: ignore[method-assign]  # the same, observed
    cortex.DeregisterWorker = left  # type: ignore[method-assign]  # the same, observed
    await cortex.down()
    await cortex.up()
    async with start_worker():
        await cortex.until(lambda: bool(cortex.watches))
    await cortex.until(lambda: len(order) == 2)

    assert order == ["goodbye", "stream"]
    assert len(cortex.registrations) == 1
