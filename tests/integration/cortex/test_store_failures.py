"""The behaviour of every store, part 7: engines that die, and jobs too big for their worker."""

from __future__ import annotations

import json

import pytest
from cortex_tools import StoreTools

from mnemos.cortex.api.waiting import waiting_for
from mnemos.cortex.records import LoadedModel, ModelKey, Report
from mnemos.cortex.state_machine import JobState

TINY = ModelKey("tiny", "1", "transformers")


async def die(tools: StoreTools, job_id: str, attempt: int, engine_jobs: int) -> None:
    report = Report(
        job_id=job_id,
        attempt=attempt,
        status=JobState.FAILED,
        error="signal 11",
        error_code="engine_crashed",
        retryable=True,
        engine_jobs=engine_jobs,
    )
    await tools.store.report("wrk_a", [report])


async def claim_again(tools: StoreTools) -> int:
    """Wait for the back-off to be over; return the deaths that the worker is told."""
    tools.clock.turn(300)
    await tools.store.promote_due()
    [leased] = await tools.claim()
    return leased.job.engine_crashes


async def test_a_poisonous_job_stops_after_its_second_death_alone(tools: StoreTools) -> None:
    job_id = await tools.hold()
    await die(tools, job_id, 1, engine_jobs=1)
    assert await claim_again(tools) == 1
    await die(tools, job_id, 2, engine_jobs=1)
    job = await tools.store.get_job(job_id)
    assert (job.status, job.engine_crashes, job.retries_used) == (JobState.FAILED, 2, 1)
    assert job.error == "the engine died 2 times under this job; last: signal 11"
    assert (job.error_code, job.error_retryable) == ("engine_crashed", False)


async def test_an_innocent_neighbour_is_not_charged(tools: StoreTools) -> None:
    job_id = await tools.hold(max_retries=1)
    await die(tools, job_id, 1, engine_jobs=5)
    job = await tools.store.get_job(job_id)
    assert (job.status, job.engine_crashes, job.retries_used) == (JobState.PENDING, 1, 0)
    assert job.available_at == tools.clock.now + 0.5
    assert await claim_again(tools) == 1
    await die(tools, job_id, 2, engine_jobs=2)
    assert await claim_again(tools) == 2
    await die(tools, job_id, 3, engine_jobs=1)
    job = await tools.store.get_job(job_id)
    assert (job.status, job.engine_crashes, job.retries_used) == (JobState.FAILED, 3, 0)


async def test_a_retry_by_hand_forgets_the_deaths(tools: StoreTools) -> None:
    job_id = await tools.hold()
    await die(tools, job_id, 1, engine_jobs=1)
    await claim_again(tools)
    await die(tools, job_id, 2, engine_jobs=1)
    await tools.store.retry_job(job_id)
    assert (await tools.store.get_job(job_id)).engine_crashes == 0
    assert await claim_again(tools) == 0


async def test_other_failures_are_no_deaths(tools: StoreTools) -> None:
    job_id = await tools.hold()
    report = Report(job_id=job_id, attempt=1, status=JobState.FAILED, retryable=True, engine_jobs=1)
    await tools.store.report("wrk_a", [report])
    assert (await tools.store.get_job(job_id)).engine_crashes == 0


async def test_a_job_handed_back_for_memory_goes_to_a_bigger_worker_only(
    tools: StoreTools,
) -> None:
    job_id = await tools.hold()
    await tools.register("wrk_big")
    release = tools.handed_back(job_id, 1, reason="too big", min_memory_mb=16000)
    await tools.store.release("wrk_a", [release])
    job = await tools.store.get_job(job_id)
    assert (job.status, job.min_memory_mb, job.retries_used) == (JobState.PENDING, 16000, 0)
    assert job.status_message == (
        "attempt 1 was handed back: too big; from now on it asks for 16000 MB of memory"
    )
    last = (await tools.store.read_events(job_id, 0, 100)).events[-1]
    assert json.loads(last.data)["message"] == job.status_message
    assert await tools.claim(memory_available_mb=15999) == []
    [leased] = await tools.claim("wrk_big", memory_available_mb=16000)
    assert leased.job.job_id == job_id


async def test_needs_are_never_lowered_and_each_is_raised_by_itself(tools: StoreTools) -> None:
    job_id = await tools.hold()
    release = tools.handed_back(job_id, 1, min_memory_mb=500, min_gpu_memory_mb=700)
    await tools.store.release("wrk_a", [release])
    await tools.claim(memory_available_mb=9999, gpu_memory_available_mb=9999)
    release = tools.handed_back(job_id, 2, min_memory_mb=400, min_gpu_memory_mb=800)
    await tools.store.release("wrk_a", [release])
    job = await tools.store.get_job(job_id)
    assert (job.min_memory_mb, job.min_gpu_memory_mb) == (500, 800)
    await tools.claim(memory_available_mb=9999, gpu_memory_available_mb=9999)
    await tools.store.release("wrk_a", [tools.handed_back(job_id, 3, min_memory_mb=1)])
    job = await tools.store.get_job(job_id)
    assert (job.min_memory_mb, job.min_gpu_memory_mb) == (500, 800)
    assert "asks for" not in str(job.status_message)


async def test_raised_needs_keep_the_tallies_right(tools: StoreTools) -> None:
    job_id = await tools.hold(group="g")
    await tools.store.release("wrk_a", [tools.handed_back(job_id, 1, min_memory_mb=500)])
    [lane] = (await tools.store.queue_numbers()).lanes
    assert (lane.pending, lane.running) == (1, 0)
    await tools.claim(memory_available_mb=500)
    [lane] = (await tools.store.queue_numbers()).lanes
    assert (lane.pending, lane.running) == (0, 1)
    await tools.store.report(
        "wrk_a", [Report(job_id=job_id, attempt=2, status=JobState.COMPLETED, result="1")]
    )
    assert (await tools.store.queue_numbers()).lanes == []


@pytest.mark.parametrize(
    ("active_jobs", "available", "fits"),
    [(0, 500, False), (0, 1000, True), (1, 399, False), (1, 400, True)],
)
async def test_a_loaded_model_does_not_hide_that_a_job_was_too_big(
    tools: StoreTools, active_jobs: int, available: int, fits: bool
) -> None:
    job_id = await tools.hold()
    await tools.store.release("wrk_a", [tools.handed_back(job_id, 1, min_memory_mb=1000)])
    loaded = LoadedModel(TINY, memory_mb=600, active_jobs=active_jobs)
    given = await tools.claim(models=(loaded,), memory_available_mb=available)
    assert bool(given) is fits


async def test_a_job_too_big_for_all_says_what_they_offer(tools: StoreTools) -> None:
    job_id = await tools.hold()
    await tools.claim(memory_available_mb=16000)
    await tools.claim(memory_available_mb=900)
    await tools.store.release("wrk_a", [tools.handed_back(job_id, 1, min_memory_mb=24000)])
    assert await tools.claim(memory_available_mb=900) == []
    job = await tools.store.get_job(job_id)
    waits = waiting_for(job, await tools.store.list_workers(), tools.clock())
    assert waits.message == "no registered worker has 23.4 GiB of memory (the largest has 15.6)"
