"""Jobs through a worker: what becomes of them when all is well, and when it is not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fake_cortex import FakeCortex
from fake_engine import FakeEngines

from mnemos.protocol.v1 import cortex_pb2 as pb
from neuron.errors import NeuronError
from neuron.worker import NEURONWorker

StartWorker = Callable[..., AbstractAsyncContextManager[NEURONWorker]]


async def test_a_job_runs_and_its_result_says_everything(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "tokens 3")
        await cortex.until(lambda: job.state == "done")

    assert job.result is not None
    assert job.result.status == pb.JOB_STATUS_COMPLETED
    assert job.result.output.result_json == '"t0 t1 t2 "'
    assert '"tokens_generated":3' in job.result.output.metadata_json
    assert '"load_ms":' in job.result.output.metrics_json
    assert job.renewed, "the job started before its lease was confirmed"
    assert job.accepted == 1


async def test_a_streamed_job_brings_every_token_in_order_before_its_result(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "tokens 200", stream=True)
        await cortex.until(lambda: job.state == "done")

    assert [chunk.sequence for chunk in job.chunks] == list(range(len(job.chunks)))
    assert job.text == "".join(f"t{index} " for index in range(200))
    assert [i for chunk in job.chunks for i in chunk.token_ids] == list(range(200))
    assert job.chunks[-1].is_final


async def test_a_token_reaches_cortex_while_the_next_is_still_awaited(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "hang", stream=True)
        await cortex.until(lambda: job.text == "x" and "streaming" in job.statuses)


async def test_tokens_cut_off_with_their_stream_are_sent_again_once(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker():
        cortex.cut_token_stream_after = 0
        job = cortex.submit("job_1", "tokens 50", stream=True)
        await cortex.until(lambda: job.state == "done")

    assert cortex.token_streams >= 2
    assert job.text == "".join(f"t{index} " for index in range(50))


async def test_no_more_jobs_are_asked_for_than_slots_are_free(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    jobs = [cortex.submit(f"job_{index}", "wait 1") for index in range(10)]

    async with start_worker(max_concurrent_jobs=3):
        await cortex.until(lambda: sum(job.state == "running" for job in jobs) == 3)
        engines.go.set()
        await cortex.until(lambda: all(job.state == "done" for job in jobs))

    assert engines.peak <= 3
    assert max(request.max_jobs for request in cortex.acquires) == 3
    assert engines.loads == ["tiny:1"], "concurrent jobs must share one load"


async def test_a_failure_carries_its_code_and_whether_to_try_again(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        fail = cortex.submit("job_fail", "fail")
        bug = cortex.submit("job_bug", "bug")
        unknown = cortex.submit("job_unknown", runtime="abacus")
        lacking = cortex.submit("job_lacking", runtime="vllm")
        wrong = cortex.submit("job_wrong", parameters={"temperature": 3})
        jobs = [fail, bug, unknown, lacking, wrong]
        await cortex.until(lambda: all(job.state == "done" for job in jobs))

    def ended(job: object) -> tuple[int, bool]:
        result = getattr(job, "result")  # noqa: B009 - mypy knows it may be None
        assert result.status == pb.JOB_STATUS_FAILED
        return result.error_details.code, result.error_details.retryable

    assert ended(fail) == (pb.ERROR_CODE_INTERNAL, True)
    assert ended(bug) == (pb.ERROR_CODE_INTERNAL, True)
    assert ended(unknown) == (pb.ERROR_CODE_INVALID_INPUT, False)
    assert ended(lacking) == (pb.ERROR_CODE_RUNTIME_UNAVAILABLE, True)
    assert ended(wrong) == (pb.ERROR_CODE_INVALID_INPUT, False)
    assert wrong.result is not None
    assert "temperature" in wrong.result.error


async def test_an_error_that_is_not_unicode_fails_its_job_and_not_the_worker(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    engines.load_error = NeuronError("cannot read /models/caf\udce9")
    async with start_worker():
        bad = cortex.submit("job_1")
        await cortex.until(lambda: bad.result is not None)
        engines.load_error = None
        good = cortex.submit("job_2")
        await cortex.until(lambda: good.state == "done")

    assert bad.result is not None
    assert bad.result.status == pb.JOB_STATUS_FAILED
    assert bad.result.error == "cannot read /models/caf\\udce9"


async def test_a_result_that_cannot_be_said_fails_its_job_and_not_the_worker(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    engines.load_error = NeuronError("cannot read a file", file="caf\udce9")
    async with start_worker():
        bad = cortex.submit("job_1")
        await cortex.until(lambda: bad.result is not None)
        engines.load_error = None
        good = cortex.submit("job_2")
        await cortex.until(lambda: good.state == "done")

    assert bad.result is not None
    assert bad.result.status == pb.JOB_STATUS_FAILED
    assert "UnicodeEncodeError" in bad.result.error


async def test_a_dead_engine_fails_its_job_and_the_next_job_gets_a_new_engine(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker():
        crashed = cortex.submit("job_die", "die")
        await cortex.until(lambda: crashed.state == "done")
        after = cortex.submit("job_after", "tokens 1")
        await cortex.until(lambda: after.state == "done")

    assert crashed.result is not None
    assert crashed.result.error_details.code == pb.ERROR_CODE_ENGINE_CRASHED
    assert after.result is not None
    assert after.result.status == pb.JOB_STATUS_COMPLETED
    assert len(engines.made) == 2


async def test_a_cancelled_job_frees_its_slot_and_is_reported_cancelled(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker(max_concurrent_jobs=1):
        hanging = cortex.submit("job_hang", "hang")
        await cortex.until(lambda: "executing" in hanging.statuses)
        hanging.cancel_asked = True
        cortex.act(pb.ACTION_KIND_CANCEL_JOBS, jobs=[pb.AttemptRef(job_id="job_hang", attempt=1)])
        following = cortex.submit("job_next", "tokens 1")
        await cortex.until(lambda: following.state == "done" and hanging.state == "done")

    assert hanging.result is not None
    assert hanging.result.status == pb.JOB_STATUS_CANCELLED
    assert hanging.result.output.result_json == '"x"', "what there was is kept"
    assert engines.made[0].cancelled == ["hang"]


async def test_a_cancel_that_overtakes_its_job_stops_it_as_it_comes(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker():
        action_id = cortex.act(
            pb.ACTION_KIND_CANCEL_JOBS, jobs=[pb.AttemptRef(job_id="job_hang", attempt=1)]
        )
        await cortex.until(lambda: action_id in cortex.acknowledged_actions)
        hanging = cortex.submit("job_hang", "hang")
        await cortex.until(lambda: hanging.state == "done")

    assert hanging.result is not None
    assert hanging.result.status == pb.JOB_STATUS_CANCELLED
    assert "executing" not in hanging.statuses, "it was never begun"


async def test_a_cancel_also_comes_through_with_a_lease_renewal(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    cortex.lease_seconds = 0.6
    async with start_worker():
        hanging = cortex.submit("job_hang", "hang")
        await cortex.until(lambda: "executing" in hanging.statuses)
        hanging.cancel_asked = True
        await cortex.until(lambda: hanging.state == "done")

    assert hanging.result is not None
    assert hanging.result.status == pb.JOB_STATUS_CANCELLED


async def test_the_timeout_covers_loading(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    engines.load_gate.clear()
    async with start_worker():
        job = cortex.submit("job_1", timeout=1)
        await cortex.until(lambda: job.state == "done")

    assert job.result is not None
    assert job.result.status == pb.JOB_STATUS_TIMEOUT
    assert job.result.error_details.code == pb.ERROR_CODE_TIMEOUT
    assert "loading_model" in job.statuses
    assert engines.alive == [], "the load that nobody wants any more must stop"


async def test_a_timeout_stops_a_running_generation(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker():
        job = cortex.submit("job_1", "hang", timeout=1)
        await cortex.until(lambda: job.state == "done")
        assert engines.made[0].cancelled == ["hang"]

    assert job.result is not None
    assert job.result.status == pb.JOB_STATUS_TIMEOUT
    assert job.result.output.result_json == '"x"', "what there was is kept"


async def test_an_idle_model_makes_room_for_another(
    cortex: FakeCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker(max_loaded_models=1):
        first = cortex.submit("job_1")
        await cortex.until(lambda: first.state == "done")
        second = cortex.submit("job_2", family="small")
        await cortex.until(lambda: second.state == "done")
        assert [engine.name for engine in engines.alive] == ["small:1"]

    assert engines.alive == []
