"""Shutting down: finish or hand back, never drop; and what CORTEX may ask besides."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx2
from fake_cortex import FakeCortex
from fake_engine import FakeEngines
from fake_metadata import serving_metadata
from google.protobuf.duration_pb2 import Duration

from mnemos.protocol.v1 import cortex_pb2 as pb
from neuron.services.lifecycle import WorkerPhase
from neuron.worker import EXIT_RESTART, NEURONWorker

StartWorker = Callable[..., AbstractAsyncContextManager[NEURONWorker]]


async def stopped(worker: NEURONWorker) -> None:
    async with asyncio.timeout(10):
        await worker.shutdown()


async def test_an_idle_worker_leaves_at_once_and_says_goodbye(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker() as worker:
        await cortex.until(lambda: len(cortex.acquires) == 1)
        await stopped(worker)

    assert worker.phase is WorkerPhase.STOPPED
    assert cortex.deregistered == [cortex.registrations[0].worker_id or "wrk_1"]


async def test_jobs_claimed_by_a_poll_that_was_open_at_the_end_are_handed_back(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker(max_concurrent_jobs=2, shutdown_timeout=10) as worker:
        running = cortex.submit("job_running", "wait 1")
        await cortex.until(lambda: "executing" in running.statuses)
        await cortex.until(lambda: len(cortex.acquires) == 2)
        late = cortex.submit_late("job_late", "hang")
        worker.request_stop("the test")
        await cortex.until(lambda: bool(late.released))
        assert running.state == "running", "the drain must still be going on"
        assert worker.phase is WorkerPhase.SHUTTING_DOWN
        engines.go.set()
        await stopped(worker)

    assert running.accepted == 1
    assert late.state == "pending"
    assert "hang" not in [order for engine in engines.made for order in engine.cancelled]


async def test_a_drain_lets_jobs_finish_while_heartbeats_and_renewals_go_on(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    cortex.lease_seconds = 0.6
    async with start_worker() as worker:
        job = cortex.submit("job_1", "wait 5", stream=True)
        await cortex.until(lambda: "executing" in job.statuses)
        worker.on_signal(signal.SIGTERM)
        renewals, heartbeats = len(cortex.renewals), len(cortex.heartbeats)
        await cortex.until(
            lambda: len(cortex.renewals) > renewals + 3 and len(cortex.heartbeats) > heartbeats + 2
        )
        assert cortex.heartbeats[-1].status == pb.WORKER_STATUS_SHUTTING_DOWN
        engines.go.set()
        await stopped(worker)

    assert job.accepted == 1
    assert job.text == "t0 t1 t2 t3 t4 "
    assert worker.exit_code == 0


async def test_what_cannot_finish_in_time_is_handed_back(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker(shutdown_timeout=0.2) as worker:
        job = cortex.submit("job_1", "hang")
        await cortex.until(lambda: "executing" in job.statuses)
        await stopped(worker)

    assert len(job.released) == 1
    assert job.state == "pending"
    assert job.result is None
    assert cortex.deregistered
    assert engines.alive == []


async def test_what_cannot_finish_goes_back_at_once_and_the_rest_goes_on(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker(shutdown_timeout=300) as worker:
        long = cortex.submit("job_long", "flow", stream=True, parameters={"max_tokens": 1_000_000})
        short = cortex.submit("job_short", "flow", stream=True, parameters={"max_tokens": 10_000})
        unknown = cortex.submit("job_unknown", "wait 3")
        await cortex.until(lambda: len(long.chunks) > 15 and "executing" in unknown.statuses)
        cortex.act(pb.ACTION_KIND_DRAIN, deadline=Duration(seconds=250))
        await cortex.until(lambda: bool(long.released))
        assert short.state == unknown.state == "running"
        assert worker.phase is WorkerPhase.SHUTTING_DOWN
        engines.go.set()
        await stopped(worker)

    assert long.state == "pending"
    assert long.text.startswith("t0 t1 t2 "), "its progress was lost"
    assert short.accepted == unknown.accepted == 1


async def test_a_nearer_deadline_hastens_a_drain(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker(shutdown_timeout=300) as worker:
        job = cortex.submit("job_1", "hang")
        await cortex.until(lambda: "executing" in job.statuses)
        worker.on_signal(signal.SIGTERM)
        worker.request_stop("the provider takes the machine", deadline_seconds=0.2)
        await stopped(worker)

    assert len(job.released) == 1


async def test_a_spot_notice_drains_the_worker(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with (
        serving_metadata() as metadata,
        start_worker(
            spot_notices="gcp", spot_metadata_url=metadata.url, shutdown_timeout=300
        ) as worker,
    ):
        job = cortex.submit("job_1", "flow", stream=True, parameters={"max_tokens": 1_000_000})
        await cortex.until(lambda: len(job.chunks) > 15)
        metadata.notice = True
        metadata.changed.set()
        await cortex.until(lambda: bool(cortex.deregistered))

    assert "Google Cloud preempts" in worker.view.stop_reason
    assert len(job.released) == 1


async def test_a_second_signal_hands_back_at_once(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker(shutdown_timeout=300) as worker:
        job = cortex.submit("job_1", "hang")
        await cortex.until(lambda: "executing" in job.statuses)
        worker.on_signal(signal.SIGINT)
        worker.on_signal(signal.SIGINT)
        await stopped(worker)

    assert len(job.released) == 1
    assert worker.exit_code == 0


async def test_a_worker_stops_although_cortex_is_gone(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker(shutdown_timeout=0.1) as worker:
        job = cortex.submit("job_1", "hang")
        await cortex.until(lambda: "executing" in job.statuses)
        await cortex.down()
        worker.on_signal(signal.SIGTERM)
        worker.on_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await worker.shutdown()

    assert worker.phase is WorkerPhase.STOPPED


async def test_pause_takes_no_jobs_and_resume_takes_them_again(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker() as worker:
        action = cortex.act(pb.ACTION_KIND_PAUSE, reason="maintenance")
        await cortex.until(lambda: action in cortex.acknowledged_actions)
        job = cortex.submit("job_1")
        async with httpx2.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{worker.api_port}/ready")
        assert answer.status_code == 503
        assert "paused" in answer.text
        assert job.state == "pending"
        cortex.act(pb.ACTION_KIND_RESUME)
        await cortex.until(lambda: job.state == "done")
        assert worker.view.not_ready_because() == []


async def test_an_action_counts_once_although_both_ways_bring_it(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker() as worker:
        action = cortex.act(
            pb.ACTION_KIND_UPDATE_CONFIG,
            config_json='{"max_concurrent_jobs": 7, "heartbeat_interval": 0.1}',
        )
        await cortex.until(lambda: action in cortex.acknowledged_actions)
        await cortex.until(lambda: len(cortex.registrations) == 2)
        heartbeats = len(cortex.heartbeats)
        await cortex.until(lambda: len(cortex.heartbeats) > heartbeats + 3)

        assert worker.view.info()["capabilities"]["max_concurrent_jobs"] == 7
    assert len(cortex.registrations) == 2, "the action was carried out twice"


async def test_a_config_that_cannot_be_is_refused_and_said_so(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        cortex.act(pb.ACTION_KIND_UPDATE_CONFIG, config_json='{"max_concurrent_jobs": 0}')
        await cortex.until(
            lambda: any("max_concurrent_jobs" in beat.status_reason for beat in cortex.heartbeats)
        )


async def test_cortex_can_shut_a_worker_down_and_restart_it(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker() as worker:
        cortex.act(pb.ACTION_KIND_RESTART, reason="new version")
        await cortex.until(lambda: bool(cortex.deregistered))
        await stopped(worker)

    assert worker.exit_code == EXIT_RESTART
    assert cortex.deregistered


async def test_a_worker_that_still_waits_for_cortex_stops_at_once(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    await cortex.down()
    async with start_worker(ready=False) as worker:
        await stopped(worker)

    assert worker.phase is WorkerPhase.STOPPED
    assert cortex.registrations == []


async def test_a_worker_without_a_runtime_says_so_and_takes_nothing(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker(supported_runtimes="vllm") as worker:
        await cortex.until(
            lambda: any(beat.status == pb.WORKER_STATUS_ERROR for beat in cortex.heartbeats)
        )
        assert "vllm" in str(worker.view.not_ready_because())

    (registration,) = cortex.registrations
    assert list(registration.capabilities.supported_runtimes) == []
    assert "vllm" in registration.capabilities.unavailable_runtimes
    assert cortex.acquires == []
