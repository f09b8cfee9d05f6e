"""The behaviour of every store, part 1: what people do with jobs."""

from __future__ import annotations

import pytest
from cortex_tools import StoreFactory, StoreTools

from mnemos.cortex.errors import ConflictError, JobNotFoundError
from mnemos.cortex.records import JobFilter, Report
from mnemos.cortex.state_machine import JobState


async def test_what_is_submitted_is_there(tools: StoreTools) -> None:
    job_id = await tools.submit(priority=7, group="g", metadata='{"a":1}', tags={"zone": "a"})
    job = await tools.store.get_job(job_id)
    assert (job.status, job.priority, job.group) == (JobState.PENDING, 7, "g")
    assert (job.metadata, job.tags) == ('{"a":1}', '{"zone": "a"}')
    assert (job.attempt, job.retries_used, job.worker_id, job.result) == (0, 0, None, None)
    assert job.submitted_at == tools.clock.now
    assert job.input == '{"prompt":"Hello","parameters":{}}'


async def test_an_unknown_job_is_not_found(tools: StoreTools) -> None:
    for call in (tools.store.get_job, tools.store.cancel_job, tools.store.retry_job):
        with pytest.raises(JobNotFoundError, match="job_nowhere"):
            await call("job_nowhere")
    with pytest.raises(JobNotFoundError):
        await tools.store.read_events("job_nowhere", 0, 1)


async def test_what_was_answered_outlives_the_store(
    tools: StoreTools, store_factory: StoreFactory
) -> None:
    job_id = await tools.submit()
    await tools.store.__aexit__(None, None, None)  # type: ignore[attr-defined]  # closed early
    async with store_factory() as again:
        assert (await again.get_job(job_id)).status is JobState.PENDING


async def test_a_key_gives_the_same_job_back(tools: StoreTools) -> None:
    first = tools.new_job(idempotency_key="k")
    second = tools.new_job(idempotency_key="k")
    [stored] = await tools.store.submit([first])
    [again] = await tools.store.submit([second])
    assert (stored.created, again.created) == (True, False)
    assert again.job_id == first.job_id
    assert len(await tools.store.list_jobs(JobFilter())) == 1


async def test_a_key_with_another_body_is_a_conflict(tools: StoreTools) -> None:
    same, other = tools.new_job(idempotency_key="k"), tools.new_job(idempotency_key="k")
    changed = tools.new_job(idempotency_key="k", request_hash="other")
    results = await tools.store.submit([same, changed, other, tools.new_job()])
    assert [one.created for one in results] == [True, False, False, True]
    assert results[1].conflict is not None
    assert same.job_id in results[1].conflict
    assert results[2].conflict is None


async def test_lists_are_filtered_and_newest_first(tools: StoreTools) -> None:
    old = await tools.submit(family="a", group="g")
    tools.clock.turn(10)
    new = await tools.submit(family="b", version="2", job_type="evaluation")
    listed = tools.store.list_jobs

    async def ids(**changes: object) -> list[str]:
        return [job.job_id for job in await listed(JobFilter(**changes))]  # type: ignore[arg-type]  # any filter

    assert await ids() == [new, old]
    assert await ids(limit=1) == [new]
    assert await ids(family="a") == await ids(group="g") == [old]
    assert await ids(family="b", version="2") == await ids(job_type="evaluation") == [new]
    assert await ids(family="b", version="1") == []
    assert await ids(submitted_after=tools.clock.now - 5) == [new]
    assert await ids(submitted_before=tools.clock.now - 5) == [old]
    assert await ids(statuses=(JobState.PENDING,)) == [new, old]
    assert await ids(statuses=(JobState.FAILED, JobState.COMPLETED)) == []
    [newest] = await listed(JobFilter(limit=1))
    assert await ids(before_seq=newest.seq) == [old]
    assert newest.input is None
    [full] = await listed(JobFilter(limit=1, full=True))
    assert full.input is not None


async def test_a_pending_job_is_cancelled_at_once(tools: StoreTools) -> None:
    job_id = await tools.submit()
    await tools.store.cancel_job(job_id)
    job = await tools.store.get_job(job_id)
    assert (job.status, job.error_code) == (JobState.CANCELLED, "cancelled")
    await tools.store.cancel_job(job_id)
    await tools.register()
    assert await tools.claim() == []


async def test_an_ended_job_cannot_be_cancelled_nor_a_running_one_retried(
    tools: StoreTools,
) -> None:
    job_id = await tools.hold()
    with pytest.raises(ConflictError, match="acquired"):
        await tools.store.retry_job(job_id)
    done = Report(job_id=job_id, attempt=1, status=JobState.COMPLETED, result='"a"')
    await tools.store.report("wrk_a", [done])
    with pytest.raises(ConflictError, match="completed"):
        await tools.store.cancel_job(job_id)
    with pytest.raises(ConflictError, match="completed"):
        await tools.store.retry_job(job_id)


async def test_retrying_by_hand_starts_with_all_retries_and_a_new_attempt(
    tools: StoreTools,
) -> None:
    job_id = await tools.hold(max_retries=0)
    failed = Report(
        job_id=job_id, attempt=1, status=JobState.FAILED, error="no", error_code="internal"
    )
    await tools.store.report("wrk_a", [failed])
    await tools.store.retry_job(job_id)
    job = await tools.store.get_job(job_id)
    assert (job.status, job.retries_used, job.error, job.finished_at) == (
        JobState.PENDING,
        0,
        None,
        None,
    )
    [leased] = await tools.claim()
    assert leased.job.attempt == 2
    history = await tools.store.get_attempts(job_id)
    assert [(one.attempt, one.outcome) for one in history] == [(1, "failed"), (2, None)]


async def test_a_group_is_counted_read_in_finishing_order_and_cancelled(
    tools: StoreTools,
) -> None:
    await tools.register()
    first, second, third = [await tools.submit(group="g") for _ in range(3)]
    await tools.submit(group="other")
    await tools.claim(max_jobs=2)
    for job_id in (second, first):
        report = Report(job_id=job_id, attempt=1, status=JobState.COMPLETED, result="1")
        await tools.store.report("wrk_a", [report])
    counts = await tools.store.group_counts("g")
    assert (counts.total, counts.pending, counts.running, counts.finished) == (3, 1, 0, 2)
    page = await tools.store.group_results("g", 0, 10)
    assert [job.job_id for job in page] == [second, first]
    assert page[0].result == "1"
    assert page[0].finish_seq is not None
    rest = await tools.store.group_results("g", page[0].finish_seq, 10)
    assert [job.job_id for job in rest] == [first]
    assert await tools.store.cancel_group("g") == 1
    assert await tools.store.cancel_group("g") == 0
    last = page[1].finish_seq or 0
    [cancelled] = await tools.store.group_results("g", last, 10)
    assert cancelled.job_id == third
    assert (await tools.store.group_counts("nothing")).total == 0


async def test_a_job_that_finishes_twice_is_seen_twice_by_a_group_reader(
    tools: StoreTools,
) -> None:
    job_id = await tools.submit(group="g")
    await tools.store.cancel_job(job_id)
    [first] = await tools.store.group_results("g", 0, 10)
    await tools.store.retry_job(job_id)
    assert await tools.store.group_results("g", 0, 10) == []
    await tools.store.cancel_job(job_id)
    [again] = await tools.store.group_results("g", first.finish_seq or 0, 10)
    assert again.job_id == job_id


async def test_numbers_follow_every_change(tools: StoreTools) -> None:
    job_id = await tools.hold(priority=9)
    await tools.submit(priority=2)
    tools.clock.turn(4)
    numbers = await tools.store.queue_numbers()
    shown = {(lane.priority, lane.pending, lane.running) for lane in numbers.lanes}
    assert shown == {(9, 0, 1), (2, 1, 0)}
    assert numbers.oldest_pending_seconds == pytest.approx(4)
    failed = Report(
        job_id=job_id,
        attempt=1,
        status=JobState.FAILED,
        error="no",
        error_code="internal",
        retryable=True,
    )
    await tools.store.report("wrk_a", [failed])
    assert (await tools.store.queue_numbers()).delayed == 1
    tools.clock.turn(10)
    await tools.store.promote_due()
    assert (await tools.store.queue_numbers()).delayed == 0
    totals = await tools.store.totals()
    assert totals.jobs["pending"] == 2
    assert sum(totals.jobs.values()) == 2
    assert totals.workers == {"initializing": 1}


async def test_a_delayed_job_that_is_cancelled_is_no_longer_counted_as_delayed(
    tools: StoreTools,
) -> None:
    job_id = await tools.hold()
    tools.clock.turn(16)
    await tools.store.reap()
    assert (await tools.store.queue_numbers()).delayed == 1
    await tools.store.cancel_job(job_id)
    numbers = await tools.store.queue_numbers()
    assert (numbers.delayed, list(numbers.lanes)) == (0, [])
    assert await tools.store.promote_due() is None


async def test_a_page_of_jobs_is_cut_where_it_would_be_too_much(tools: StoreTools) -> None:
    big = '"' + "a" * (3 * 1024 * 1024) + '"'
    for _ in range(8):
        await tools.submit(input=big, group="g")
    page = await tools.store.list_jobs(JobFilter(full=True, limit=100))
    assert 1 < len(page) < 8
    assert len(await tools.store.list_jobs(JobFilter(limit=100))) == 8
    await tools.store.cancel_group("g")
    first = await tools.store.group_results("g", 0, 100)
    rest = await tools.store.group_results("g", first[-1].finish_seq or 0, 100)
    assert len(first) + len(rest) == 8
