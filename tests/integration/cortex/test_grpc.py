"""The contract, with a real server and a real stub."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from cortex_tools import Cortex, eventually, running_cortex

from mnemos.cortex.settings import CortexSettings
from mnemos.protocol.v1 import cortex_pb2 as pb


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_a_worker_registers_and_is_told_its_lease(cortex: Cortex) -> None:
    answer = await cortex.stub.RegisterWorker(
        pb.RegisterWorkerRequest(
            hostname="h", capabilities=pb.WorkerCapabilities(supported_runtimes=["vllm"])
        )
    )
    assert answer.worker_id.startswith("wrk_")
    assert answer.lease.seconds == 15
    assert answer.cortex_version
    assert answer.registered_at.seconds > 0
    known = await cortex.register(worker_id=answer.worker_id)
    assert known == answer.worker_id


async def test_what_makes_no_sense_is_refused(cortex: Cortex) -> None:
    await cortex.register()
    stub, worker_id = cortex.stub, cortex.worker_id
    update = pb.StatusUpdate(job_id="job_x", attempt=1, status=pb.JOB_STATUS_COMPLETED)
    result = pb.JobResult(job_id="job_x", attempt=1, status=pb.JOB_STATUS_EXECUTING)
    for call in (
        stub.RegisterWorker(pb.RegisterWorkerRequest(hostname="h")),
        stub.RegisterWorker(
            pb.RegisterWorkerRequest(
                worker_id="../x",
                capabilities=pb.WorkerCapabilities(supported_runtimes=["vllm"]),
            )
        ),
        stub.UpdateJobStatus(pb.UpdateJobStatusRequest(worker_id=worker_id, updates=[update])),
        stub.ReportResult(pb.ReportResultRequest(worker_id=worker_id, results=[result])),
    ):
        code, text = await refusal(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text.startswith("invalid_input: ")


async def test_an_unknown_worker_is_told_to_register(cortex: Cortex) -> None:
    stub = cortex.stub
    watch = stub.WatchActions(pb.WatchActionsRequest(worker_id="wrk_x"))
    for call in (
        stub.Heartbeat(pb.HeartbeatRequest(worker_id="wrk_x")),
        stub.AcquireJob(pb.AcquireJobRequest(worker_id="wrk_x", max_jobs=1)),
        stub.AcquireJob(pb.AcquireJobRequest(worker_id="wrk_x", max_jobs=0)),
        stub.RenewLeases(pb.RenewLeasesRequest(worker_id="wrk_x")),
        watch.read(),
    ):
        code, text = await refusal(call)
        assert code is grpc.StatusCode.NOT_FOUND
        assert text.startswith("worker_unknown:")


async def test_a_job_arrives_whole(cortex: Cortex) -> None:
    await cortex.register()
    await cortex.submit(
        job_type="batch_inference",
        priority=8,
        timeout_seconds=60,
        model={
            "family": "tiny",
            "version": "1",
            "runtime": "transformers",
            "runtime_config": {"device": "cpu"},
        },
        input={"inputs": ["a", {"prompt": "b"}], "parameters": {"max_tokens": 3}, "context": "ctx"},
        retry_config={"max_retries": 1, "retryable_codes": ["timeout"]},
        metadata={"k": "v"},
        requirements={"tags": {}, "min_memory_mb": 0},
        idempotency_key="key",
        trace="00-abc-def-01",
    )
    [leased] = await cortex.acquire()
    job = leased.job
    assert (job.job_type, job.priority, job.timeout_seconds) == (
        pb.JOB_TYPE_BATCH_INFERENCE,
        8,
        60,
    )
    assert (job.model.family, job.model.version, job.model.runtime) == (
        "tiny",
        "1",
        "transformers",
    )
    assert job.model.runtime_config_json == '{"device":"cpu"}'
    assert list(job.input.inputs_json) == ['"a"', '{"prompt":"b"}']
    assert (job.input.parameters_json, job.input.context) == ('{"max_tokens":3}', "ctx")
    assert (job.retry_config.max_retries, list(job.retry_config.retryable_codes)) == (
        1,
        [pb.ERROR_CODE_TIMEOUT],
    )
    assert (job.metadata_json, job.idempotency_key, job.trace) == (
        '{"k":"v"}',
        "key",
        "00-abc-def-01",
    )
    assert (leased.attempt, leased.lease.seconds, leased.time_left.seconds) == (1, 15, 60)
    assert not leased.HasField("resume")


async def test_a_waiting_worker_is_woken_by_a_submission(cortex: Cortex) -> None:
    await cortex.register()
    clock = asyncio.get_running_loop().time
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(cortex.acquire(wait=20))
        assert await cortex.acquire(wait=0) == []
        start = clock()
        job_id = await cortex.submit()
    assert clock() - start < 5
    [leased] = waiting.result()
    assert leased.job.job_id == job_id


async def test_a_retry_wakes_a_waiting_worker_when_its_backoff_is_over(cortex: Cortex) -> None:
    retry = {"initial_backoff_seconds": 0.05}
    job_id = await cortex.hold(retry_config=retry)
    details = pb.ErrorDetails(code=pb.ERROR_CODE_ENGINE_CRASHED, retryable=True)
    result = pb.JobResult(
        job_id=job_id,
        attempt=1,
        status=pb.JOB_STATUS_FAILED,
        error="The engine died.",
        error_details=details,
    )
    assert await cortex.report(result) == pb.VERDICT_ACCEPTED
    [leased] = await cortex.acquire(wait=10)
    assert leased.attempt == 2
    [attempt, _] = (await cortex.job(job_id))["attempts"]
    assert (attempt["error_code"], attempt["error"]) == ("engine_crashed", "The engine died.")


async def test_a_worker_that_hangs_up_takes_no_job_with_it(cortex: Cortex) -> None:
    await cortex.register()
    request = pb.AcquireJobRequest(worker_id=cortex.worker_id, max_jobs=1)
    request.wait.FromSeconds(20)
    for _ in range(5):
        cortex.stub.AcquireJob(request).cancel()
        call = cortex.stub.AcquireJob(request)
        async with asyncio.TaskGroup() as group:
            group.create_task(_cancelled(call))
            assert await cortex.acquire(wait=0) == []
            call.cancel()
    job_id = await cortex.submit()
    [leased] = await cortex.acquire(wait=10)
    assert leased.job.job_id == job_id


async def _cancelled(call: Any) -> None:
    try:
        await call
    except asyncio.CancelledError:
        if not call.cancelled():
            raise


async def test_an_expired_lease_is_given_on_and_the_old_answer_is_stale(
    settings: CortexSettings,
) -> None:
    short = settings.model_copy(update={"lease_seconds": 0.3})
    async with running_cortex(short) as cortex:
        retry = {"initial_backoff_seconds": 0}
        job_id = await cortex.hold(retry_config=retry)
        [leased] = await cortex.acquire(wait=10)
        assert (leased.job.job_id, leased.attempt) == (job_id, 2)
        assert await cortex.complete(job_id, attempt=1) == pb.VERDICT_STALE
        assert await cortex.complete(job_id, attempt=2) == pb.VERDICT_ACCEPTED
        assert await cortex.complete(job_id, attempt=2) == pb.VERDICT_DUPLICATE


async def test_a_renewed_job_is_not_given_on(settings: CortexSettings) -> None:
    short = settings.model_copy(update={"lease_seconds": 0.6})
    async with running_cortex(short) as cortex:
        job_id = await cortex.hold()
        ref = pb.AttemptRef(job_id=job_id, attempt=1)
        renewal = pb.RenewLeasesRequest(worker_id=cortex.worker_id, jobs=[ref])
        for _ in range(8):
            assert await cortex.acquire(wait=0.2) == []
            answer = await cortex.stub.RenewLeases(renewal)
            assert answer.verdicts[0].verdict == pb.VERDICT_ACCEPTED
            assert answer.lease.nanos == 600_000_000


async def test_a_cancel_reaches_the_worker_at_once_and_is_repeated(cortex: Cortex) -> None:
    job_id = await cortex.hold()
    watch = cortex.stub.WatchActions(pb.WatchActionsRequest(worker_id=cortex.worker_id))
    opened = await watch.read()
    assert not opened.HasField("action")
    answer = await cortex.http.post(f"/api/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 200
    async with asyncio.timeout(1):
        pushed = (await watch.read()).action
    assert pushed.kind == pb.ACTION_KIND_CANCEL_JOBS
    assert [(ref.job_id, ref.attempt) for ref in pushed.jobs] == [(job_id, 1)]
    beat = pb.HeartbeatRequest(worker_id=cortex.worker_id, status=pb.WORKER_STATUS_BUSY)
    [repeated] = (await cortex.stub.Heartbeat(beat)).actions
    assert repeated.action_id == pushed.action_id
    result = pb.JobResult(job_id=job_id, attempt=1, status=pb.JOB_STATUS_CANCELLED)
    assert await cortex.report(result) == pb.VERDICT_ACCEPTED
    assert (await cortex.job(job_id))["status"] == "cancelled"
    watch.cancel()


async def test_a_stream_opened_late_brings_what_is_open(cortex: Cortex) -> None:
    await cortex.register()
    await cortex.http.post(f"/api/v1/workers/{cortex.worker_id}/drain", json={"reason": "bye"})
    watch = cortex.stub.WatchActions(pb.WatchActionsRequest(worker_id=cortex.worker_id))
    await watch.read()
    action = (await watch.read()).action
    assert (action.kind, action.reason) == (pb.ACTION_KIND_DRAIN, "bye")
    beat = pb.HeartbeatRequest(
        worker_id=cortex.worker_id, acknowledged_action_ids=[action.action_id]
    )
    assert list((await cortex.stub.Heartbeat(beat)).actions) == []
    watch.cancel()


async def test_tokens_are_acknowledged_and_numbered(cortex: Cortex) -> None:
    job_id = await cortex.hold()
    ack = await cortex.chunks(job_id, "a", "b")
    assert (ack.next_sequence, ack.verdict) == (2, pb.VERDICT_ACCEPTED)
    ack = await cortex.chunks(job_id, "a", "b", "c")
    assert ack.next_sequence == 3
    ack = await cortex.chunks(job_id, "z", first=9)
    assert (ack.next_sequence, ack.verdict) == (3, pb.VERDICT_ACCEPTED)
    ack = await cortex.chunks(job_id, "z", attempt=2)
    assert ack.verdict == pb.VERDICT_STALE


async def test_an_answer_that_cannot_be_read_fails_the_attempt_only(cortex: Cortex) -> None:
    job_id = await cortex.hold(retry_config={"max_retries": 0})
    output = pb.JobOutput(result_json="{", metadata_json="nonsense")
    result = pb.JobResult(job_id=job_id, attempt=1, status=pb.JOB_STATUS_COMPLETED, output=output)
    assert await cortex.report(result) == pb.VERDICT_ACCEPTED
    job = await cortex.job(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "internal")


async def test_odd_numbers_in_metrics_do_not_cost_the_answer(cortex: Cortex) -> None:
    job_id = await cortex.hold()
    output = pb.JobOutput(
        result_json='{"x": NaN}', metadata_json="[]", metrics_json='{"rate": Infinity}'
    )
    result = pb.JobResult(job_id=job_id, attempt=1, status=pb.JOB_STATUS_COMPLETED, output=output)
    await cortex.report(result)
    job = await cortex.job(job_id)
    assert (job["result"], job["output_metadata"], job["metrics"]) == (
        {"x": None},
        {},
        {"rate": None},
    )


async def test_a_worker_that_leaves_frees_its_jobs(cortex: Cortex) -> None:
    job_id = await cortex.hold()
    first = cortex.worker_id
    await cortex.register(instance_id="other")
    assert cortex.worker_id != first
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(cortex.acquire(wait=20))
        await cortex.stub.DeregisterWorker(pb.DeregisterWorkerRequest(worker_id=first))
    [leased] = waiting.result()
    assert (leased.job.job_id, leased.attempt) == (job_id, 2)


async def test_leaving_the_server_answers_open_long_polls(settings: CortexSettings) -> None:
    outcome: list[object] = []

    async def ask(cortex: Cortex) -> None:
        try:
            outcome.append(await cortex.acquire(wait=30))
        except grpc.aio.AioRpcError as error:
            outcome.append(error.code())

    async with asyncio.TaskGroup() as group, running_cortex(settings) as cortex:
        await cortex.register()
        group.create_task(ask(cortex))
        await eventually(_seen_waiting(cortex), "the long-poll is open")
        start = asyncio.get_running_loop().time()
        cortex.server.notifier.close()
        await eventually(_true_when(outcome), "the long-poll was answered", 5)
    assert outcome == [[]]
    assert asyncio.get_running_loop().time() - start < 10


def _true_when(outcome: list[object]) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        return bool(outcome)

    return probe


def _seen_waiting(cortex: Cortex) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        return cortex.server.notifier.listeners > 1

    return probe


async def test_after_a_restart_the_worker_goes_on_with_its_jobs(settings: CortexSettings) -> None:
    async with running_cortex(settings) as cortex:
        job_id = await cortex.hold()
        worker_id = cortex.worker_id
    async with running_cortex(settings) as cortex:
        cortex.worker_id = worker_id
        later = await cortex.submit()
        [leased] = await cortex.acquire()
        assert leased.job.job_id == later
        assert await cortex.complete(job_id) == pb.VERDICT_ACCEPTED


def loaded(load_seconds: float) -> pb.LoadedModel:
    return pb.LoadedModel(
        family="tiny", version="1", runtime="transformers", load_seconds=load_seconds
    )


async def test_a_cold_worker_wakes_by_itself_for_a_job_left_to_a_warm_one(cortex: Cortex) -> None:
    await cortex.register()
    await cortex.acquire(wait=0, models=[loaded(0.4)])
    cold = await cortex.register(worker_id="wrk_cold", instance_id="two")
    clock = asyncio.get_running_loop().time
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(cortex.acquire(worker_id=cold, wait=20))
        await cortex.server_waits_for(cold)
        start = clock()
        job_id = await cortex.submit()
    [leased] = waiting.result()
    assert leased.job.job_id == job_id
    assert 0.3 < clock() - start < 10


async def test_rows_reach_readers_and_the_next_attempt(cortex: Cortex) -> None:
    rows = {"inputs": ["a", "b"]}
    job_id = await cortex.hold(job_type="batch_inference", input=rows)
    ack = await cortex.send_rows(job_id, {1: '{\n"result": "B",\n"score": NaN}', 7: "{}"})
    assert ack.next_sequence == 2
    release = pb.ReleasedJob(job_id=job_id, attempt=1, reason="drain")
    await cortex.stub.ReleaseJobs(pb.ReleaseJobsRequest(worker_id=cortex.worker_id, jobs=[release]))
    [leased] = await cortex.acquire()
    [row] = leased.resume.rows
    assert (row.index, row.result_json) == (1, '{"result":"B","score":null}')
    await cortex.complete(job_id, attempt=2)
    log = (await cortex.http.get(f"/api/v1/jobs/{job_id}/stream")).text
    data = '{"index":1,"result":{"result":"B","score":null},"attempt":1}'
    assert f"event: row\ndata: {data}\n\n" in log
    assert "event: restart" not in log


async def test_a_job_whose_engine_died_says_so_to_the_next_worker_and_to_people(
    cortex: Cortex,
) -> None:
    job_id = await cortex.hold(retry_config={"initial_backoff_seconds": 0})
    assert "engine_crashes" not in await cortex.job(job_id)
    details = pb.ErrorDetails(code=pb.ERROR_CODE_ENGINE_CRASHED, retryable=True, engine_jobs=1)
    died = pb.JobResult(
        job_id=job_id, attempt=1, status=pb.JOB_STATUS_FAILED, error="x", error_details=details
    )
    await cortex.report(died)
    [leased] = await cortex.acquire()
    assert leased.engine_crashes == 1
    died.attempt = 2
    await cortex.report(died)
    job = await cortex.job(job_id)
    assert (job["status"], job["engine_crashes"]) == ("failed", 2)
    assert job["error"]["message"].startswith("the engine died 2 times under this job; last: ")


@pytest.mark.parametrize("result_json", ['"Once"', "", "not json"])
async def test_a_cancelled_attempt_may_bring_what_it_had(cortex: Cortex, result_json: str) -> None:
    job_id = await cortex.hold()
    output = pb.JobOutput(result_json=result_json, metadata_json='{"tokens_generated": 1}')
    await cortex.report(
        pb.JobResult(job_id=job_id, attempt=1, status=pb.JOB_STATUS_CANCELLED, output=output)
    )
    job = await cortex.job(job_id)
    expected = "Once" if result_json == '"Once"' else None
    assert (job["status"], job["result"]) == ("cancelled", expected)
    assert job["output_metadata"] == ({"tokens_generated": 1} if expected else {})


async def test_a_job_too_big_for_its_worker_asks_for_more(cortex: Cortex) -> None:
    job_id = await cortex.hold()
    release = pb.ReleasedJob(
        job_id=job_id, attempt=1, needs=pb.Requirements(min_memory_mb=2**63, min_gpu_memory_mb=5)
    )
    await cortex.stub.ReleaseJobs(pb.ReleaseJobsRequest(worker_id=cortex.worker_id, jobs=[release]))
    job = await cortex.job(job_id)
    assert job["requirements"] == {"min_memory_mb": 2**40, "min_gpu_memory_mb": 5, "tags": {}}
    assert job["waiting_for"]["code"] == "memory_missing"
    assert job["waiting_for"]["message"] == (
        "no registered worker has 5 MiB of GPU memory (none has any), "
        "and none 1099511627776 MiB of memory (the largest has 1000)"
    )
