"""The behaviour of every store, part 6: rows of batches, and what ended jobs had got to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cortex_tools import LEASE, StoreTools

from mnemos.cortex.records import Chunk, Fence, FinishedRow, LeasedJob, Report
from mnemos.cortex.state_machine import JobState


async def hold_batch(tools: StoreTools, rows: int = 3, **changes: Any) -> str:
    return await tools.hold(job_type="batch_inference", row_count=rows, **changes)


async def send(
    tools: StoreTools, job_id: str, *indexes: int, attempt: int = 1, first: int = 0
) -> None:
    chunks = [
        Chunk(job_id, attempt, first + place, "", [], row(index, attempt))
        for place, index in enumerate(indexes)
    ]
    [ack] = await tools.store.append_chunks("wrk_a", chunks)
    assert (ack.verdict, ack.next_sequence) == (Fence.ACCEPTED, first + len(indexes))


def row(index: int, attempt: int = 1) -> FinishedRow:
    return FinishedRow(index, f'{{"result":"{index}.{attempt}"}}')


async def events(tools: StoreTools, job_id: str, kind: str) -> list[dict[str, Any]]:
    page = await tools.store.read_events(job_id, 0, 1000)
    return [json.loads(event.data) for event in page.events if event.kind == kind]


async def next_attempt(tools: StoreTools, **asked: Any) -> LeasedJob:
    """Let the lease run out and claim the job again."""
    tools.clock.turn(LEASE)
    await tools.store.reap()
    tools.clock.turn(300)
    await tools.store.promote_due()
    [leased] = await tools.claim(**asked)
    return leased


async def test_rows_are_logged_once_and_in_order(tools: StoreTools) -> None:
    job_id = await hold_batch(tools)
    await send(tools, job_id, 1, 0)
    await tools.store.append_chunks("wrk_a", [Chunk(job_id, 1, 1, "", [], row(0))])
    assert await events(tools, job_id, "row") == [
        {"index": 1, "result": {"result": "1.1"}, "attempt": 1},
        {"index": 0, "result": {"result": "0.1"}, "attempt": 1},
    ]
    assert (await tools.store.get_job(job_id)).status is JobState.STREAMING


async def test_a_row_that_the_job_does_not_have_is_passed_over(tools: StoreTools) -> None:
    job_id = await hold_batch(tools, rows=2)
    await send(tools, job_id, 2, 1, 9)
    assert [one["index"] for one in await events(tools, job_id, "row")] == [1]


async def test_rows_of_a_stale_attempt_change_nothing(tools: StoreTools) -> None:
    job_id = await hold_batch(tools)
    await next_attempt(tools)
    [ack] = await tools.store.append_chunks("wrk_a", [Chunk(job_id, 1, 0, "", [], row(0))])
    assert ack.verdict is Fence.STALE
    assert await events(tools, job_id, "row") == []


async def test_the_next_attempt_is_given_the_rows_of_all_before_it(tools: StoreTools) -> None:
    job_id = await hold_batch(tools, rows=4)
    await send(tools, job_id, 2, 0)
    second = await next_attempt(tools)
    assert list(second.rows) == [row(0), row(2)]
    await send(tools, job_id, 3, 2, attempt=2)
    third = await next_attempt(tools)
    assert list(third.rows) == [row(0), row(2, 2), row(3, 2)]
    assert await events(tools, job_id, "restart") == []


async def test_a_repeated_request_brings_the_rows_again(tools: StoreTools) -> None:
    job_id = await hold_batch(tools)
    await send(tools, job_id, 1)
    await next_attempt(tools, request_id="r1")
    [again] = await tools.claim(request_id="r1")
    assert list(again.rows) == [row(1)]


async def test_an_answer_without_room_for_a_job_s_rows_leaves_the_job(tools: StoreTools) -> None:
    first, second = [await hold_batch(tools) for _ in range(2)]
    for job_id in (first, second):
        await send(tools, job_id, 0, 1, 2)
        await tools.store.release("wrk_a", [tools.handed_back(job_id, 1)])
    bare = len('{"prompt":"Hello","parameters":{}}{}{}')

    leased = await tools.claim(max_jobs=2, max_bytes=2 * bare + 8)

    assert [one.job.job_id for one in leased] == [first], "two fit only without their rows"
    assert list(leased[0].rows) == [row(0), row(1), row(2)]


async def test_a_retry_by_hand_starts_the_rows_anew_and_says_so(tools: StoreTools) -> None:
    job_id = await hold_batch(tools, max_retries=0)
    await send(tools, job_id, 0, 1)
    report = Report(job_id=job_id, attempt=1, status=JobState.FAILED, error="broken")
    await tools.store.report("wrk_a", [report])
    await tools.store.retry_job(job_id)
    [leased] = await tools.claim()
    assert (leased.job.attempt, list(leased.rows)) == (2, [])
    assert len(await events(tools, job_id, "restart")) == 1
    await send(tools, job_id, 1, attempt=2)
    await tools.store.release("wrk_a", [tools.handed_back(job_id, 2)])
    [leased] = await tools.claim()
    assert list(leased.rows) == [row(1, 2)]
    assert len(await events(tools, job_id, "restart")) == 1


@pytest.mark.parametrize("status", [JobState.CANCELLED, JobState.TIMEOUT])
async def test_what_an_ended_attempt_had_got_to_is_kept_until_a_retry(
    tools: StoreTools, status: JobState
) -> None:
    job_id = await tools.hold()
    partial = Report(
        job_id=job_id,
        attempt=1,
        status=status,
        result='"Once upon"',
        output_metadata='{"tokens_generated":2}',
        metrics='{"latency_ms":5}',
    )
    await tools.store.report("wrk_a", [partial])
    job = await tools.store.get_job(job_id)
    assert (job.status, job.result) == (status, '"Once upon"')
    assert (job.output_metadata, job.metrics) == ('{"tokens_generated":2}', '{"latency_ms":5}')
    assert (await tools.store.totals()).tokens_generated == 2
    await tools.store.retry_job(job_id)
    assert (await tools.store.get_job(job_id)).result is None


async def test_a_timeout_that_is_retried_keeps_nothing(tools: StoreTools) -> None:
    job_id = await tools.hold(retryable_codes=["timeout"])
    partial = Report(job_id=job_id, attempt=1, status=JobState.TIMEOUT, result='"Once"')
    await tools.store.report("wrk_a", [partial])
    job = await tools.store.get_job(job_id)
    assert (job.status, job.result) == (JobState.PENDING, None)


async def test_a_cancelled_job_keeps_what_its_timed_out_attempt_had(tools: StoreTools) -> None:
    job_id = await tools.hold()
    await tools.store.cancel_job(job_id)
    partial = Report(job_id=job_id, attempt=1, status=JobState.TIMEOUT, result='"Once"')
    await tools.store.report("wrk_a", [partial])
    job = await tools.store.get_job(job_id)
    assert (job.status, job.result) == (JobState.CANCELLED, '"Once"')
