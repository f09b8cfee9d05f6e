"""The behaviour of every store, part 7: an attempt that was given up may still bring its answer.

As long as nobody else has begun the job since, what its worker finished is as good as ever.
"""

from __future__ import annotations

import json

import pytest
from cortex_tools import LEASE, StoreTools
from store_chaos import check_books, check_log

from mnemos.cortex.records import AttemptRef, Chunk, ChunkAck, Fence, Report, StatusUpdate
from mnemos.cortex.state_machine import JobState


def done(job_id: str, attempt: int = 1, answer: str = '"Hi"') -> Report:
    return Report(
        job_id=job_id,
        attempt=attempt,
        status=JobState.COMPLETED,
        result=answer,
        output_metadata='{"tokens_generated":7}',
    )


async def verdict_of(tools: StoreTools, report: Report, worker_id: str = "wrk_a") -> Fence:
    [verdict] = await tools.store.report(worker_id, [report])
    return verdict.verdict


async def lost(tools: StoreTools, **changes: object) -> str:
    """A job whose lease has run out, and that waits for its next attempt."""
    job_id = await tools.hold(**changes)
    tools.clock.turn(LEASE + 1)
    assert (await tools.store.reap()).leases_expired == 1
    return job_id


async def again(tools: StoreTools) -> None:
    """Let the back-off pass."""
    tools.clock.turn(300)
    await tools.store.promote_due()


@pytest.mark.parametrize("delayed", [True, False])
async def test_a_late_completion_is_accepted_while_the_job_waits(
    tools: StoreTools, delayed: bool
) -> None:
    job_id = await lost(tools, group="g")
    if not delayed:
        await again(tools)
    assert (await tools.store.queue_numbers()).delayed == int(delayed)
    assert await verdict_of(tools, done(job_id)) is Fence.ACCEPTED
    assert await verdict_of(tools, done(job_id, answer='"Other"')) is Fence.DUPLICATE
    job = await tools.store.get_job(job_id)
    assert (job.status, job.result, job.worker_id) == (JobState.COMPLETED, '"Hi"', "wrk_a")
    assert not job.delayed
    assert job.finish_seq is not None
    [attempt] = await tools.store.get_attempts(job_id)
    assert (attempt.outcome, attempt.error_code, attempt.error) == ("completed", None, None)
    assert attempt.ended_at == tools.clock.now
    assert (await tools.store.get_worker("wrk_a")).total_jobs_completed == 1
    totals = await tools.store.totals()
    assert (totals.tokens_generated, totals.leases_expired) == (7, 1)
    await again(tools)
    assert await tools.claim() == []
    await check_books(tools)
    await check_log(tools, job_id)


async def test_it_is_refused_once_another_attempt_has_begun(tools: StoreTools) -> None:
    job_id = await lost(tools)
    await again(tools)
    await tools.register("wrk_b")
    assert len(await tools.claim("wrk_b")) == 1
    assert await verdict_of(tools, done(job_id)) is Fence.STALE
    await tools.store.release("wrk_b", [tools.handed_back(job_id, 2)])
    assert await verdict_of(tools, done(job_id)) is Fence.STALE
    assert await verdict_of(tools, done(job_id, 2), "wrk_b") is Fence.STALE, "it handed it back"
    assert (await tools.store.get_job(job_id)).status is JobState.PENDING


async def test_a_repeat_is_told_so_though_another_attempt_has_begun(tools: StoreTools) -> None:
    job_id = await tools.hold()
    failed = Report(job_id=job_id, attempt=1, status=JobState.FAILED, retryable=True)
    assert await verdict_of(tools, failed) is Fence.ACCEPTED
    assert await verdict_of(tools, failed) is Fence.DUPLICATE
    await again(tools)
    assert len(await tools.claim()) == 1
    assert await verdict_of(tools, failed) is Fence.DUPLICATE
    assert await verdict_of(tools, failed, "wrk_b") is Fence.STALE


async def test_it_is_refused_from_another_worker(tools: StoreTools) -> None:
    job_id = await lost(tools)
    await tools.register("wrk_b")
    assert await verdict_of(tools, done(job_id), "wrk_b") is Fence.STALE
    assert (await tools.store.get_job(job_id)).result is None


async def test_it_is_refused_after_a_retry_by_hand(tools: StoreTools) -> None:
    job_id = await lost(tools, max_retries=0)
    assert await verdict_of(tools, done(job_id)) is Fence.STALE, "a dead letter stays one"
    await tools.store.retry_job(job_id)
    assert await verdict_of(tools, done(job_id)) is Fence.STALE
    assert (await tools.store.get_job(job_id)).status is JobState.PENDING


async def test_it_is_refused_once_the_job_was_cancelled(tools: StoreTools) -> None:
    job_id = await lost(tools)
    await tools.store.cancel_job(job_id)
    assert await verdict_of(tools, done(job_id)) is Fence.STALE
    assert (await tools.store.get_job(job_id)).status is JobState.CANCELLED


@pytest.mark.parametrize("status", [JobState.FAILED, JobState.TIMEOUT, JobState.CANCELLED])
async def test_only_a_completion_comes_late(tools: StoreTools, status: JobState) -> None:
    job_id = await lost(tools)
    said = Report(job_id=job_id, attempt=1, status=status, result="1", retryable=True)
    assert await verdict_of(tools, said) is Fence.STALE
    [renewed] = await tools.store.renew("wrk_a", [AttemptRef(job_id, 1)])
    [told] = await tools.store.update_status("wrk_a", [StatusUpdate(job_id, 1, JobState.EXECUTING)])
    [released] = await tools.store.release("wrk_a", [tools.handed_back(job_id, 1)])
    assert {renewed.verdict, told.verdict, released.verdict} == {Fence.STALE}
    assert (await tools.store.get_job(job_id)).status is JobState.PENDING
    assert len(await tools.store.get_attempts(job_id)) == 1


async def test_the_tokens_before_it_are_accepted_too(tools: StoreTools) -> None:
    job_id = await tools.hold(input='{"prompt":"Hello","parameters":{"stream":true}}')

    async def send(*numbers: int) -> ChunkAck:
        chunks = [Chunk(job_id, 1, number, f"t{number}", [number]) for number in numbers]
        [ack] = await tools.store.append_chunks("wrk_a", chunks)
        return ack

    await send(0, 1)
    tools.clock.turn(LEASE + 1)
    await tools.store.reap()
    ack = await send(1, 2, 3, 5)
    assert (ack.verdict, ack.next_sequence) == (Fence.ACCEPTED, 4)
    assert (await tools.store.get_job(job_id)).status is JobState.PENDING
    assert await verdict_of(tools, done(job_id)) is Fence.ACCEPTED
    assert (await send(4)).verdict is Fence.STALE
    events = (await tools.store.read_events(job_id, 0, 100)).events
    told = [
        json.loads(event.data)["content" if event.kind == "token" else "status"] for event in events
    ]
    assert told == [
        *("pending", "acquired", "streaming", "t0", "t1"),
        *("pending", "t2", "t3", "completed"),
    ]
    await check_log(tools, job_id)


async def test_the_next_attempt_goes_on_after_late_tokens(tools: StoreTools) -> None:
    job_id = await lost(tools)
    late = [Chunk(job_id, 1, 0, "Hel", [1]), Chunk(job_id, 1, 1, "lo", [2])]
    [ack] = await tools.store.append_chunks("wrk_a", late)
    assert (ack.verdict, ack.next_sequence) == (Fence.ACCEPTED, 2)
    await tools.register("wrk_b")
    await again(tools)
    [leased] = await tools.claim("wrk_b")
    assert leased.progress is not None
    assert (list(leased.progress.token_ids), leased.progress.text) == ([1, 2], "Hello")
    [ack] = await tools.store.append_chunks("wrk_a", [Chunk(job_id, 1, 2, "!", [3])])
    assert ack.verdict is Fence.STALE
