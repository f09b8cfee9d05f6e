"""The behaviour of every store, part 3: leases, reports, retries, fencing."""

from __future__ import annotations

import json

import pytest
from cortex_tools import LEASE, StoreFactory, StoreTools

from mnemos.cortex.errors import WorkerUnknownError
from mnemos.cortex.records import AttemptRef, Chunk, Fence, Reaped, Release, Report, StatusUpdate
from mnemos.cortex.state_machine import JobState


def done(job_id: str, attempt: int = 1, answer: str = '"Hi"') -> Report:
    return Report(
        job_id=job_id,
        attempt=attempt,
        status=JobState.COMPLETED,
        result=answer,
        output_metadata='{"tokens_generated": 7}',
    )


def failed(job_id: str, attempt: int = 1, *, code: str = "internal", again: bool = True) -> Report:
    return Report(
        job_id=job_id,
        attempt=attempt,
        status=JobState.FAILED,
        error=f"it was {code}",
        error_code=code,
        retryable=again,
    )


async def verdict_of(tools: StoreTools, report: Report, worker_id: str = "wrk_a") -> Fence:
    [verdict] = await tools.store.report(worker_id, [report])
    return verdict.verdict


async def test_an_answer_is_accepted_once(tools: StoreTools) -> None:
    job_id = await tools.hold()
    assert await verdict_of(tools, done(job_id)) is Fence.ACCEPTED
    assert await verdict_of(tools, done(job_id, answer='"Other"')) is Fence.DUPLICATE
    assert await verdict_of(tools, failed(job_id)) is Fence.DUPLICATE
    job = await tools.store.get_job(job_id)
    assert (job.status, job.result) == (JobState.COMPLETED, '"Hi"')
    assert (await tools.store.totals()).tokens_generated == 7
    worker = await tools.store.get_worker("wrk_a")
    assert (worker.total_jobs_completed, worker.current_jobs) == (1, [])


async def test_nothing_counts_from_another_worker_or_for_another_attempt(
    tools: StoreTools,
) -> None:
    job_id = await tools.hold()
    await tools.register("wrk_b")
    ref = AttemptRef(job_id, 1)
    for worker_id, attempt in (("wrk_b", 1), ("wrk_a", 2), ("wrk_a", 0)):
        assert await verdict_of(tools, done(job_id, attempt), worker_id) is Fence.STALE
        update = StatusUpdate(job_id, attempt, JobState.EXECUTING)
        [status] = await tools.store.update_status(worker_id, [update])
        [renewed] = await tools.store.renew(worker_id, [AttemptRef(job_id, attempt)])
        [released] = await tools.store.release(worker_id, [Release(job_id, attempt)])
        [ack] = await tools.store.append_chunks(worker_id, [Chunk(job_id, attempt, 0, "a", [1])])
        verdicts = {status.verdict, renewed.verdict, released.verdict, ack.verdict}
        assert verdicts == {Fence.STALE}
    assert (await tools.store.get_job(job_id)).status is JobState.ACQUIRED
    [renewed] = await tools.store.renew("wrk_a", [ref])
    assert renewed.verdict is Fence.ACCEPTED


async def test_an_unknown_job_is_stale(tools: StoreTools) -> None:
    await tools.register()
    assert await verdict_of(tools, done("job_nowhere")) is Fence.STALE


async def test_an_unknown_worker_cannot_renew(tools: StoreTools) -> None:
    with pytest.raises(WorkerUnknownError):
        await tools.store.renew("wrk_nobody", [])


async def test_a_renewed_lease_lives_and_another_ends(tools: StoreTools) -> None:
    job_id = await tools.hold()
    for _ in range(5):
        tools.clock.turn(LEASE - 1)
        assert (await tools.store.reap()).leases_expired == 0
        await tools.store.renew("wrk_a", [AttemptRef(job_id, 1)])
    tools.clock.turn(LEASE - 0.01)
    assert (await tools.store.reap()).leases_expired == 0
    tools.clock.turn(0.02)
    assert (await tools.store.reap()).leases_expired == 1
    job = await tools.store.get_job(job_id)
    assert (job.status, job.lost_workers, job.worker_id) == (JobState.PENDING, 1, None)
    [attempt] = await tools.store.get_attempts(job_id)
    assert (attempt.outcome, attempt.error_code) == ("lost", "worker_lost")
    assert (await tools.store.totals()).leases_expired == 1


async def test_a_lost_job_goes_on_elsewhere_and_the_late_answer_is_stale(
    tools: StoreTools,
) -> None:
    job_id = await tools.hold()
    tools.clock.turn(LEASE + 1)
    await tools.store.reap()
    assert await verdict_of(tools, failed(job_id)) is Fence.STALE
    await tools.register("wrk_b")
    assert await tools.claim("wrk_b") == []
    tools.clock.turn(0.5)
    assert await tools.store.promote_due() is None
    [leased] = await tools.claim("wrk_b")
    assert leased.job.attempt == 2
    assert await verdict_of(tools, done(job_id)) is Fence.STALE
    assert await verdict_of(tools, done(job_id, 2, '"B"'), "wrk_b") is Fence.ACCEPTED
    assert (await tools.store.get_job(job_id)).result == '"B"'


async def test_a_job_lost_too_often_is_a_dead_letter_with_every_error(tools: StoreTools) -> None:
    job_id = await tools.hold(max_retries=2)
    for _ in range(2):
        tools.clock.turn(LEASE + 1)
        await tools.store.reap()
        tools.clock.turn(300)
        await tools.store.promote_due()
        assert len(await tools.claim()) == 1
    tools.clock.turn(LEASE + 1)
    await tools.store.reap()
    job = await tools.store.get_job(job_id)
    assert (job.status, job.error_code, job.attempt) == (JobState.FAILED, "worker_lost", 3)
    history = await tools.store.get_attempts(job_id)
    assert [one.outcome for one in history] == ["lost"] * 3
    assert all(one.error and "wrk_a" in one.error for one in history)


async def test_retries_wait_longer_each_time(tools: StoreTools) -> None:
    job_id = await tools.hold(max_retries=3)
    for attempt, wait in ((1, 0.5), (2, 1.0), (3, 2.0)):
        assert await verdict_of(tools, failed(job_id, attempt)) is Fence.ACCEPTED
        assert await tools.store.promote_due() == pytest.approx(wait)
        assert await tools.claim() == []
        tools.clock.turn(wait)
        assert await tools.store.promote_due() is None
        assert len(await tools.claim()) == 1
    await verdict_of(tools, failed(job_id, 4, code="out_of_memory"))
    job = await tools.store.get_job(job_id)
    assert (job.status, job.error_code) == (JobState.FAILED, "out_of_memory")
    assert job.error == "it was out_of_memory"
    assert len(await tools.store.get_attempts(job_id)) == 4


async def test_a_failure_for_good_ends_at_once(tools: StoreTools) -> None:
    job_id = await tools.hold()
    await verdict_of(tools, failed(job_id, code="invalid_input", again=False))
    job = await tools.store.get_job(job_id)
    assert (job.status, job.retries_used, job.error_retryable) == (JobState.FAILED, 0, False)
    assert (await tools.store.get_worker("wrk_a")).total_jobs_failed == 1


async def test_a_timeout_is_an_end_of_its_own(tools: StoreTools) -> None:
    job_id = await tools.hold()
    said = Report(job_id=job_id, attempt=1, status=JobState.TIMEOUT, error="300 s", retryable=True)
    await verdict_of(tools, said)
    job = await tools.store.get_job(job_id)
    assert (job.status, job.error_code) == (JobState.TIMEOUT, "timeout")


async def test_a_timeout_that_the_policy_names_is_retried(tools: StoreTools) -> None:
    job_id = await tools.hold(retryable_codes=["timeout"])
    await verdict_of(tools, Report(job_id=job_id, attempt=1, status=JobState.TIMEOUT))
    assert (await tools.store.get_job(job_id)).status is JobState.PENDING


async def test_an_attempt_that_outlives_its_timeout_is_ended(tools: StoreTools) -> None:
    job_id = await tools.hold(timeout_seconds=60)
    for _ in range(7):
        tools.clock.turn(9.9)
        await tools.store.renew("wrk_a", [AttemptRef(job_id, 1)])
        assert (await tools.store.reap()).timed_out == 0
    tools.clock.turn(1)
    assert (await tools.store.reap()).timed_out == 1
    assert (await tools.store.get_job(job_id)).status is JobState.TIMEOUT
    assert await verdict_of(tools, done(job_id)) is Fence.STALE


async def test_a_handed_back_job_is_free_at_once_and_costs_no_retry(tools: StoreTools) -> None:
    job_id = await tools.hold(max_retries=0)
    [released] = await tools.store.release("wrk_a", [Release(job_id, 1, "draining")])
    assert released.verdict is Fence.ACCEPTED
    job = await tools.store.get_job(job_id)
    assert (job.status, job.retries_used) == (JobState.PENDING, 0)
    [leased] = await tools.claim()
    assert leased.job.attempt == 2
    history = await tools.store.get_attempts(job_id)
    assert history[0].outcome == "released"
    assert history[0].error == "draining"


async def test_status_moves_forward_only(tools: StoreTools) -> None:
    job_id = await tools.hold()

    async def update(status: JobState, message: str = "") -> Fence:
        said = StatusUpdate(job_id, 1, status, message)
        [verdict] = await tools.store.update_status("wrk_a", [said])
        return verdict.verdict

    assert await update(JobState.LOADING_MODEL, "10 %") is Fence.ACCEPTED
    assert await update(JobState.LOADING_MODEL, "10 %") is Fence.DUPLICATE
    assert await update(JobState.LOADING_MODEL, "90 %") is Fence.ACCEPTED
    assert (await tools.store.get_job(job_id)).status_message == "90 %"
    assert await update(JobState.STREAMING) is Fence.ACCEPTED
    assert await update(JobState.EXECUTING) is Fence.DUPLICATE
    assert (await tools.store.get_job(job_id)).status is JobState.STREAMING


async def test_a_cancelled_job_tells_its_worker_and_never_completes(tools: StoreTools) -> None:
    job_id = await tools.hold()
    await tools.store.cancel_job(job_id)
    await tools.store.cancel_job(job_id)
    ref = AttemptRef(job_id, 1)
    [action] = await tools.store.open_actions("wrk_a")
    assert (action.kind, list(action.jobs)) == ("cancel_jobs", [ref])
    [renewed] = await tools.store.renew("wrk_a", [ref])
    [status] = await tools.store.update_status(
        "wrk_a", [StatusUpdate(job_id, 1, JobState.EXECUTING)]
    )
    assert {renewed.verdict, status.verdict} == {Fence.CANCELLED}
    assert await verdict_of(tools, done(job_id)) is Fence.ACCEPTED
    job = await tools.store.get_job(job_id)
    assert (job.status, job.result) == (JobState.CANCELLED, None)
    assert await tools.store.open_actions("wrk_a") == []


@pytest.mark.parametrize("how", ["lease", "release", "failure", "timeout"])
async def test_a_cancelled_job_ends_as_cancelled_however_its_attempt_ends(
    tools: StoreTools, how: str
) -> None:
    job_id = await tools.hold(timeout_seconds=1)
    await tools.store.cancel_job(job_id)
    if how == "lease":
        tools.clock.turn(LEASE + 1)
        await tools.store.reap()
    elif how == "release":
        await tools.store.release("wrk_a", [Release(job_id, 1)])
    elif how == "failure":
        await verdict_of(tools, failed(job_id))
    else:
        tools.clock.turn(11)
        await tools.store.renew("wrk_a", [AttemptRef(job_id, 1)])
        await tools.store.reap()
    assert (await tools.store.get_job(job_id)).status is JobState.CANCELLED


async def test_a_store_that_starts_gives_every_lease_its_whole_length(
    tools: StoreTools, store_factory: StoreFactory
) -> None:
    job_id = await tools.hold()
    await tools.store.__aexit__(None, None, None)  # type: ignore[attr-defined]  # a crash, in short
    tools.clock.turn(3600)
    async with store_factory() as again:
        assert await again.reap() == Reaped()
        [renewed] = await again.renew("wrk_a", [AttemptRef(job_id, 1)])
        assert renewed.verdict is Fence.ACCEPTED
        tools.clock.turn(LEASE + 1)
        assert (await again.reap()).leases_expired == 1


async def test_tokens_are_kept_once_and_in_order(tools: StoreTools) -> None:
    job_id = await tools.hold(input='{"prompt":"Hello","parameters":{"stream":true}}')

    async def send(*sequences: int) -> tuple[int, Fence]:
        chunks = [Chunk(job_id, 1, number, f"t{number}", [number]) for number in sequences]
        [ack] = await tools.store.append_chunks("wrk_a", chunks)
        return ack.next_sequence, ack.verdict

    assert await send(0, 1) == (2, Fence.ACCEPTED)
    assert await send(0, 1, 2) == (3, Fence.ACCEPTED)
    assert await send(5, 6) == (3, Fence.ACCEPTED)
    assert await send(1) == (3, Fence.ACCEPTED)
    assert await send(3, 5, 4) == (5, Fence.ACCEPTED)
    page = await tools.store.read_events(job_id, 0, 100)
    tokens = [json.loads(event.data)["content"] for event in page.events if event.kind == "token"]
    assert tokens == ["t0", "t1", "t2", "t3", "t4"]
    assert [event.sequence for event in page.events] == list(range(len(page.events)))
    assert (await tools.store.get_job(job_id)).status is JobState.STREAMING
    await tools.store.cancel_job(job_id)
    assert await send(5) == (6, Fence.CANCELLED)


async def test_a_bare_final_chunk_is_acknowledged_and_leaves_no_event(tools: StoreTools) -> None:
    job_id = await tools.hold()
    chunks = [
        Chunk(job_id, 1, 0, "all", [7]),
        Chunk(job_id, 1, 1, "", [8]),
        Chunk(job_id, 1, 2, "", []),
    ]

    [ack] = await tools.store.append_chunks("wrk_a", chunks)

    assert ack.next_sequence == 3
    page = await tools.store.read_events(job_id, 0, 100)
    tokens = [json.loads(event.data)["token_ids"] for event in page.events if event.kind == "token"]
    assert tokens == [[7], [8]]


async def test_a_new_attempt_after_tokens_says_that_it_starts_anew(tools: StoreTools) -> None:
    job_id = await tools.hold(input='{"parameters":{"stream":true,"choice":["old","new"]}}')
    await tools.store.append_chunks("wrk_a", [Chunk(job_id, 1, 0, "old", [1])])
    await tools.store.release("wrk_a", [Release(job_id, 1, "draining")])
    await tools.claim()
    await tools.store.append_chunks("wrk_a", [Chunk(job_id, 2, 0, "new", [2])])
    await verdict_of(tools, done(job_id, 2))
    page = await tools.store.read_events(job_id, 0, 100)
    kinds = [
        json.loads(event.data)["status"] if event.kind == "state" else event.kind
        for event in page.events
    ]
    assert kinds == [
        *("pending", "acquired", "streaming", "token"),
        *("pending", "restart", "acquired", "streaming", "token", "completed"),
    ]
    restart = json.loads(page.events[5].data)
    assert restart["attempt"] == 2
    assert "draining" in restart["reason"]
    assert page.ended
    later = await tools.store.read_events(job_id, 8, 1)
    assert [event.sequence for event in later.events] == [8]
