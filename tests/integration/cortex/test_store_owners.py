"""Whose a job is: kept with it, and counted."""

from __future__ import annotations

from cortex_tools import StoreTools

from mnemos.cortex.records import DeadLetters, JobFilter, Report
from mnemos.cortex.state_machine import JobState


async def test_a_job_is_known_and_found_by_its_key(tools: StoreTools) -> None:
    mine, other, nobodys = [await tools.submit(key_id=key) for key in ("key_a", "key_b", "")]
    shown = [(await tools.store.get_job(job)).key_id for job in (mine, other, nobodys)]
    assert shown == ["key_a", "key_b", ""]
    found = await tools.store.list_jobs(JobFilter(key_id="key_a"))
    assert [(job.job_id, job.key_id) for job in found] == [(mine, "key_a")]
    assert len(await tools.store.list_jobs(JobFilter())) == 3


async def test_what_waits_of_a_key_is_counted_in_all_its_lanes(tools: StoreTools) -> None:
    await tools.register()
    for number in range(3):
        await tools.submit(key_id="key_a", is_batch=number == 0, family=f"m{number}", priority=9)
    await tools.submit(key_id="key_b")
    assert await waiting(tools, "key_a", "key_b", "key_c", "") == [3, 1, 0, 0]
    assert await tools.store.waiting_of("key_a", 2) == 2
    [leased] = await tools.claim()
    assert leased.job.key_id == "key_a"
    assert await waiting(tools, "key_a") == [2]
    failed = Report(job_id=leased.job.job_id, attempt=1, status=JobState.FAILED, retryable=True)
    await tools.store.report("wrk_a", [failed])
    assert (await tools.store.get_job(leased.job.job_id)).delayed
    assert await waiting(tools, "key_a") == [3]


async def test_a_job_that_needs_more_memory_stays_its_key_s(tools: StoreTools) -> None:
    await tools.register()
    job_id = await tools.submit(key_id="key_a")
    for attempt in (1, 2):
        [leased] = await tools.claim(memory_available_mb=5000)
        needs = tools.handed_back(job_id, attempt, min_memory_mb=1000 * attempt)
        await tools.store.release("wrk_a", [needs])
        job = await tools.store.get_job(job_id)
        assert (job.status, job.min_memory_mb, job.key_id) == (
            JobState.PENDING,
            1000 * attempt,
            "key_a",
        )
        assert await waiting(tools, "key_a", "") == [1, 0]
        assert leased.job.key_id == "key_a"


async def waiting(tools: StoreTools, *keys: str) -> list[int]:
    return [await tools.store.waiting_of(key, 1000) for key in keys]


async def test_a_job_that_is_tried_anew_stays_its_key_s(tools: StoreTools) -> None:
    await tools.register()
    job_id = await tools.submit(key_id="key_a", is_batch=True, max_retries=0)
    for again in range(2):
        [leased] = await tools.claim()
        failed = Report(job_id=job_id, attempt=leased.job.attempt, status=JobState.FAILED)
        await tools.store.report("wrk_a", [failed])
        assert await waiting(tools, "key_a") == [0]
        if again:
            await tools.store.redrive(DeadLetters(), 0, 10)
        else:
            await tools.store.retry_job(job_id)
        assert await waiting(tools, "key_a", "") == [1, 0]
    assert (await tools.store.get_job(job_id)).key_id == "key_a"
