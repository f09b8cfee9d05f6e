"""CORTEX goes away, comes back, forgets: nothing that was done is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx2
import pytest
from fake_cortex import FakeCortex
from fake_engine import FakeEngines

from mnemos.protocol.v1 import cortex_pb2 as pb
from neuron.config import Settings
from neuron.errors import ConfigurationError
from neuron.worker import NEURONWorker

StartWorker = Callable[..., AbstractAsyncContextManager[NEURONWorker]]


async def poll_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - looks into a worker, which has no event for it
            await asyncio.sleep(0.01)


async def ready_body(worker: NEURONWorker) -> tuple[int, str]:
    async with httpx2.AsyncClient() as client:
        response = await client.get(f"http://127.0.0.1:{worker.api_port}/ready")
    return response.status_code, response.text


async def test_a_worker_waits_for_a_cortex_that_is_not_up_yet(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    await cortex.down()
    async with start_worker(ready=False) as worker:
        await poll_until(lambda: "does not answer" in str(worker.view.not_ready_because()))
        status, text = await ready_body(worker)
        assert status == 503
        assert "CORTEX" in text
        await cortex.up()
        async with asyncio.timeout(10):
            await worker.ready.wait()
        assert (await ready_body(worker))[0] == 200


async def test_a_result_arrives_although_cortex_was_down_when_it_was_ready(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker() as worker:
        plain = cortex.submit("job_1", "wait 2")
        streamed = cortex.submit("job_2", "wait 40", stream=True)
        await cortex.until(
            lambda: "executing" in plain.statuses and "executing" in streamed.statuses
        )
        await cortex.down()
        engines.go.set()
        await poll_until(lambda: not engines.made[0].running)
        assert worker.view.not_ready_because() != []
        await cortex.up()
        await cortex.until(lambda: plain.state == "done" and streamed.state == "done")

    assert streamed.text == "".join(f"t{index} " for index in range(40))
    assert plain.accepted == streamed.accepted == 1
    assert len(cortex.registrations) == 1


async def test_tokens_that_flow_through_an_outage_arrive_gapless(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker() as worker:
        jobs = [cortex.submit(f"job_{index}", "flow", stream=True) for index in range(4)]
        await cortex.until(lambda: all(len(job.chunks) > 2 for job in jobs))
        for _ in range(3):
            await cortex.down()
            await poll_until(lambda: worker.view.not_ready_because() != [])
            await cortex.up()
            seen = [len(job.chunks) for job in jobs]
            await cortex.until(
                lambda seen=seen: all(  # type: ignore[misc]  # the loop's own list
                    len(job.chunks) > count for job, count in zip(jobs, seen, strict=True)
                )
            )
        engines.go.set()
        await cortex.until(lambda: all(job.state == "done" for job in jobs))

    for job in jobs:
        assert job.result is not None
        assert json.loads(job.result.output.result_json) == job.text
        assert [chunk.sequence for chunk in job.chunks] == list(range(len(job.chunks)))


async def test_a_lost_answer_to_a_report_counts_once(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        cortex.lose_report_answers = 2
        job = cortex.submit("job_1")
        await cortex.until(lambda: job.state == "done" and cortex.lose_report_answers == 0)
        following = cortex.submit("job_2")
        await cortex.until(lambda: following.state == "done")

    assert job.accepted == 1


async def test_jobs_whose_answer_was_lost_come_with_the_next_poll(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    cortex.lose_acquire_answers = 1
    job = cortex.submit("job_1", "tokens 1")

    async with start_worker():
        await cortex.until(lambda: job.state == "done")

    assert cortex.lose_acquire_answers == 0
    assert job.attempt == 1, "the job had to wait for its lost lease to run out"


async def test_a_forgotten_worker_registers_again_under_its_id(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker() as worker:
        before = worker.worker_id
        cortex.forget_workers()
        job = cortex.submit("job_1")
        await cortex.until(lambda: job.state == "done")

        assert worker.worker_id == before
    assert 2 <= len(cortex.registrations) <= 3
    assert {request.instance_id for request in cortex.registrations} == {
        cortex.registrations[0].instance_id
    }
    assert cortex.registrations[1].worker_id == before


async def configuration_error_of(worker: NEURONWorker) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await worker.start()
    return caught.value.message


async def test_a_worker_whose_id_another_process_took_leaves_it_alone(
    cortex: FakeCortex,
    start_worker: StartWorker,
    worker_settings: Callable[..., Settings],
    engines: FakeEngines,
) -> None:
    settings = worker_settings(worker_id="wrk_a", poll_wait=0.2, poll_interval=0.1)
    old = NEURONWorker(settings, engine_factory=engines)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        ended = group.create_task(configuration_error_of(old))
        await old.ready.wait()
        async with start_worker(worker_id="wrk_a"):
            message = await ended
            job = cortex.submit("job_1")
            await cortex.until(lambda: job.state == "done")
            assert cortex.deregistered == [], "it took the other's registration with it"

    assert "Another process has registered as worker wrk_a" in message
    assert len(cortex.registrations) == 2


async def test_a_stale_result_is_dropped_and_the_worker_goes_on(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "wait 1")
        await cortex.until(lambda: "executing" in job.statuses)
        job.holder = "wrk_other"
        engines.go.set()
        following = cortex.submit("job_2", "tokens 1")
        await cortex.until(lambda: following.state == "done")

    assert job.result is None
    assert following.result is not None
    assert following.result.status == pb.JOB_STATUS_COMPLETED
