"""The behaviour of every store, part 8: dead letters that are queued again by filter."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cortex_tools import StoreTools, TurnableClock
from store_chaos import check_books, check_log

from mnemos.cortex.records import DeadLetters, JobFilter, Report
from mnemos.cortex.sql import redriving
from mnemos.cortex.sql.store import SqlStore
from mnemos.cortex.state_machine import JobState

ANY = 10_000


async def fail(tools: StoreTools, status: str = "failed", **changes: Any) -> str:
    """A job that ended without an answer."""
    code = changes.pop("error_code", "internal")
    job_id = await tools.submit(max_retries=0, **changes)
    [leased] = await tools.claim(memory_available_mb=10)
    assert leased.job.job_id == job_id
    said = Report(
        job_id=job_id,
        attempt=1,
        status=JobState(status),
        result='"half"',
        error="no",
        error_code=code,
    )
    await tools.store.report("wrk_a", [said])
    assert (await tools.store.get_job(job_id)).status is JobState(status)
    return job_id


async def redrive(tools: StoreTools, limit: int = ANY, **which: Any) -> int:
    """All steps of a redrive."""
    wanted = DeadLetters(**which)
    done, after = 0, 0
    while True:
        step = await tools.store.redrive(wanted, after, limit - done)
        assert step.jobs <= redriving.STEP
        done += step.jobs
        if step.next_seq is None or done == limit:
            return done
        after = step.next_seq


async def statuses(tools: StoreTools) -> dict[str, JobState]:
    jobs = await tools.store.list_jobs(JobFilter(limit=ANY))
    return {job.job_id: job.status for job in jobs}


async def test_a_redriven_job_begins_anew(tools: StoreTools) -> None:
    await tools.register()
    job_id = await fail(tools, group="g")
    assert await redrive(tools) == 1
    job = await tools.store.get_job(job_id)
    assert (job.status, job.retries_used, job.error_code, job.result, job.finished_at) == (
        JobState.PENDING,
        0,
        None,
        None,
        None,
    )
    assert (await tools.store.group_counts("g")).pending == 1
    [leased] = await tools.claim()
    assert leased.job.attempt == 2
    await check_log(tools, job_id)


EVERY = (JobState.FAILED, JobState.TIMEOUT, JobState.CANCELLED)
START = TurnableClock().now


@pytest.mark.parametrize(
    ("which", "wanted"),
    [
        ({}, {"crashed", "lost"}),
        ({"statuses": (JobState.TIMEOUT,)}, {"overdue"}),
        ({"statuses": EVERY}, {"crashed", "lost", "overdue", "stopped"}),
        ({"statuses": EVERY, "family": "a"}, {"crashed", "overdue"}),
        ({"family": "b", "version": "1"}, set()),
        ({"family": "b", "version": "2"}, {"lost"}),
        ({"group": "g"}, {"crashed"}),
        ({"error_code": "worker_lost"}, {"lost"}),
        ({"error_code": "worker_lost", "group": "g"}, set()),
        ({"finished_after": START + 50}, {"lost"}),
        ({"finished_before": START + 50}, {"crashed"}),
        ({"finished_after": START, "finished_before": START + 100}, {"crashed", "lost"}),
    ],
)
async def test_every_filter_counts_and_they_count_together(
    tools: StoreTools, which: dict[str, Any], wanted: set[str]
) -> None:
    await tools.register()
    named = {await fail(tools, family="a", group="g", error_code="engine_crashed"): "crashed"}
    tools.clock.turn(100)
    named[await fail(tools, family="b", version="2", error_code="worker_lost")] = "lost"
    tools.clock.turn(100)
    named[await fail(tools, "timeout", family="a", error_code="timeout")] = "overdue"
    named[stopped := await tools.submit(family="c")] = "stopped"
    await tools.store.cancel_job(stopped)
    done = await tools.hold(family="a")
    said = Report(job_id=done, attempt=1, status=JobState.COMPLETED, result="1")
    await tools.store.report("wrk_a", [said])

    before = await statuses(tools)
    assert await tools.store.count_dead_letters(DeadLetters(**which), ANY) == len(wanted)
    assert await statuses(tools) == before
    assert await redrive(tools, **which) == len(wanted)
    queued = {job_id for job_id, state in (await statuses(tools)).items() if state == "pending"}
    assert {named[job_id] for job_id in queued} == wanted
    assert await redrive(tools, **which) == 0
    assert await tools.store.count_dead_letters(DeadLetters(**which), ANY) == 0
    await check_books(tools)


async def test_the_oldest_go_first_and_no_more_than_asked_for(tools: StoreTools) -> None:
    await tools.register()
    job_ids = [await fail(tools, status) for status in ("failed", "timeout", "failed", "timeout")]
    which = DeadLetters(statuses=(JobState.TIMEOUT, JobState.FAILED))
    assert await tools.store.count_dead_letters(which, 3) == 3
    assert await redrive(tools, limit=3, statuses=which.statuses) == 3
    now = await statuses(tools)
    assert [now[job_id].value for job_id in job_ids] == ["pending", "pending", "pending", "timeout"]


async def test_steps_are_small_and_every_job_is_queued_again_once(tools: StoreTools) -> None:
    many = 2 * redriving.STEP + 7
    jobs = [tools.new_job(group="g") for _ in range(many)]
    await tools.store.submit(jobs)
    assert await tools.store.cancel_group("g") == many
    assert await redrive(tools, statuses=(JobState.CANCELLED,)) == many
    assert set((await statuses(tools)).values()) == {JobState.PENDING}
    await check_books(tools)


async def test_what_fails_anew_meanwhile_is_left_alone(tools: StoreTools) -> None:
    await tools.register()
    first, second = await fail(tools), await fail(tools)
    tools.clock.turn(1)
    step = await tools.store.redrive(DeadLetters(), 0, 1)
    assert (step.jobs, step.finished_before) == (1, tools.clock.now)
    assert step.next_seq is not None
    tools.clock.turn(1)
    late = await fail_again(tools, first), await fail(tools, family="late")
    which = DeadLetters(finished_before=step.finished_before)
    assert (await tools.store.redrive(which, step.next_seq, ANY)).jobs == 1
    now = await statuses(tools)
    assert now[second] is JobState.PENDING
    assert [now[job_id] for job_id in late] == [JobState.FAILED, JobState.FAILED]


async def fail_again(tools: StoreTools, job_id: str) -> str:
    [leased] = await tools.claim()
    assert leased.job.job_id == job_id
    said = Report(
        job_id=job_id, attempt=2, status=JobState.FAILED, error="no", error_code="out_of_memory"
    )
    await tools.store.report("wrk_a", [said])
    return job_id


async def test_what_was_found_and_has_changed_by_then_is_left_alone(tools: StoreTools) -> None:
    store = tools.store
    assert isinstance(store, SqlStore)
    await tools.register()
    retried, stopped, anew, same = [await fail(tools) for _ in range(4)]
    which = DeadLetters(error_code="internal")
    found = await store._readers.run(lambda db: redriving.find(db, which, 0, ANY))
    assert list(found.job_ids) == [retried, stopped, anew, same]
    for job_id in (anew, stopped, retried):
        await store.retry_job(job_id)
        if job_id == anew:
            await fail_again(tools, anew)
        elif job_id == stopped:
            await store.cancel_job(stopped)
    assert await store._writer.run(lambda tx: redriving.queue_again(tx, which, found)) == 1
    now = await statuses(tools)
    left = [now[job_id].value for job_id in (retried, stopped, anew, same)]
    assert left == ["pending", "cancelled", "failed", "pending"]
    either = DeadLetters()
    assert await store._writer.run(lambda tx: redriving.queue_again(tx, either, found)) == 1
    await check_books(tools)


async def test_two_that_redrive_at_once_queue_each_job_once(tools: StoreTools) -> None:
    many = 150
    await tools.store.submit([tools.new_job(group="g") for _ in range(many)])
    await tools.store.cancel_group("g")
    async with asyncio.TaskGroup() as group:
        cancelled = (JobState.CANCELLED,)
        both = [group.create_task(redrive(tools, statuses=cancelled)) for _ in range(2)]
    assert sum(task.result() for task in both) == many
    await check_books(tools)


async def test_lists_show_dead_letters_by_their_code(tools: StoreTools) -> None:
    await tools.register()
    crashed = await fail(tools, error_code="engine_crashed")
    await fail(tools)
    [found] = await tools.store.list_jobs(JobFilter(error_code="engine_crashed"))
    assert (found.job_id, found.error_code, found.error) == (crashed, "engine_crashed", "no")
