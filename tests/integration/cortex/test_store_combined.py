"""The behaviour of every store, part 8: calls that meet in one commit are carried out together."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cortex_tools import LEASE, StoreTools
from store_chaos import check_books, check_log

from mnemos.cortex.errors import (
    ConflictError,
    JobNotFoundError,
    WorkerReplacedError,
    WorkerUnknownError,
)
from mnemos.cortex.records import (
    AttemptRef,
    Chunk,
    ClaimRequest,
    Exchange,
    Fence,
    JobFilter,
    LoadedModel,
    ModelKey,
    Report,
    StatusUpdate,
)
from mnemos.cortex.sql.store import SqlStore
from mnemos.cortex.sql.writer import Writer
from mnemos.cortex.state_machine import JobState


@pytest.fixture(autouse=True)
def done_once(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing is done over one by one, which would hide what goes wrong together."""
    seen: Counter[int] = Counter()
    run_group = Writer._run_group

    def count(writer: Writer, connection: Any, group: Any, *rest: Any) -> Iterator[Any]:
        seen.update(id(one.future) for one in group.requests)
        futures.extend(one.future for one in group.requests)
        return run_group(writer, connection, group, *rest)

    futures: list[object] = []  # kept, so that none has the id of another
    monkeypatch.setattr(Writer, "_run_group", count)
    yield
    if "fails" not in request.node.name:
        assert set(seen.values()) == {1}


@asynccontextmanager
async def one_commit(tools: StoreTools) -> AsyncIterator[None]:
    """Whatever is asked within it waits for its end, and is then committed together."""
    assert isinstance(tools.store, SqlStore)
    begun, ended = threading.Event(), threading.Event()

    def hold(tx: object) -> None:
        begun.set()
        assert ended.wait(20)

    async with asyncio.TaskGroup() as group:
        group.create_task(tools.store._writer.run(hold))
        await asyncio.to_thread(begun.wait, 20)
        try:
            yield
        finally:
            ended.set()


async def together(tools: StoreTools, *calls: Awaitable[Any]) -> list[Any]:
    """What calls that are committed together return or raise, in their order."""

    async def answer(call: Awaitable[Any]) -> Any:
        try:
            return await call
        except Exception as error:  # noqa: BLE001  it is looked at
            return error

    async with asyncio.TaskGroup() as group, one_commit(tools):
        tasks = [group.create_task(answer(call)) for call in calls]
        for _ in range(3):
            await asyncio.sleep(0)  # every call is in the writer's queue now
    return [task.result() for task in tasks]


def completed(job_id: str, answer: str = "1") -> Report:
    return Report(job_id=job_id, attempt=1, status=JobState.COMPLETED, result=answer)


async def hold_jobs(tools: StoreTools, count: int) -> list[str]:
    await tools.register()
    await tools.store.submit([tools.new_job() for _ in range(count)])
    return [one.job.job_id for one in await tools.claim(max_jobs=count)]


async def test_submissions_are_stored_in_the_order_they_came(tools: StoreTools) -> None:
    new = [[tools.new_job(group="g"), tools.new_job()] for _ in range(20)]
    answers = await together(tools, *(tools.store.submit(jobs) for jobs in new))
    wanted = [job.job_id for jobs in new for job in jobs]
    assert [one.job_id for answer in answers for one in answer] == wanted
    listed = await tools.store.list_jobs(JobFilter(limit=100))
    assert [job.job_id for job in reversed(listed)] == wanted
    assert (await tools.store.group_counts("g")).pending == 20
    for job_id in wanted:
        await check_log(tools, job_id)
    await check_books(tools)


async def test_a_submission_that_fails_does_not_spoil_its_neighbours(tools: StoreTools) -> None:
    clash = tools.new_job()
    good = [tools.new_job() for _ in range(3)]
    calls = [tools.store.submit([job]) for job in good]
    calls.insert(1, tools.store.submit([tools.new_job(), clash, clash]))
    answers = await together(tools, *calls)
    assert "unique" in str(answers.pop(1)).lower()
    assert [one.created for answer in answers for one in answer] == [True] * 3
    listed = await tools.store.list_jobs(JobFilter())
    assert {job.job_id for job in listed} == {job.job_id for job in good}
    await check_books(tools)


async def test_one_key_in_one_commit_makes_one_job(tools: StoreTools) -> None:
    first = tools.new_job(idempotency_key="k")
    same = tools.new_job(idempotency_key="k")
    other = tools.new_job(idempotency_key="k", request_hash="other")
    another = tools.new_job(idempotency_key="l")
    calls = (tools.store.submit(jobs) for jobs in ([first, first], [same], [other], [another]))
    answers = [one for answer in await together(tools, *calls) for one in answer]
    assert [one.job_id for one in answers] == [first.job_id] * 4 + [another.job_id]
    assert [one.created for one in answers] == [True, False, False, False, True]
    assert [one.conflict is None for one in answers] == [True, True, True, False, True]
    assert len(await tools.store.list_jobs(JobFilter())) == 2


async def test_reports_of_one_attempt_in_one_commit_are_judged_in_their_order(
    tools: StoreTools,
) -> None:
    first, second = await hold_jobs(tools, 2)
    reports = [
        [completed(first, '"A"')],
        [completed(first, '"B"'), completed(second)],
        [completed("job_nowhere")],
    ]
    answers = await together(tools, *(tools.store.report("wrk_a", some) for some in reports))
    verdicts = [[one.verdict for one in answer] for answer in answers]
    assert verdicts == [[Fence.ACCEPTED], [Fence.DUPLICATE, Fence.ACCEPTED], [Fence.STALE]]
    assert (await tools.store.get_job(first)).result == '"A"'
    assert (await tools.store.get_worker("wrk_a")).total_jobs_completed == 2
    await check_books(tools)


async def test_what_is_said_of_one_job_keeps_its_order_across_kinds_of_calls(
    tools: StoreTools,
) -> None:
    job_id, other = await hold_jobs(tools, 2)
    store = tools.store

    def say(status: JobState, about: str = job_id) -> Awaitable[Any]:
        return store.update_status("wrk_a", [StatusUpdate(about, 1, status)])

    def send(*numbers: int) -> Awaitable[Any]:
        chunks = [Chunk(job_id, 1, number, f"t{number}", [number]) for number in numbers]
        return store.append_chunks("wrk_a", chunks)

    answers = await together(
        tools,
        say(JobState.LOADING_MODEL),
        send(0),
        say(JobState.EXECUTING),
        say(JobState.LOADING_MODEL),
        say(JobState.EXECUTING, other),
        send(1, 2),
        send(2, 3),
        store.renew("wrk_a", [AttemptRef(job_id, 1), AttemptRef(other, 1)]),
        store.report("wrk_a", [completed(job_id)]),
        send(4),
        say(JobState.STREAMING),
    )
    verdicts = [[one.verdict for one in answer] for answer in answers]
    a, d, s = Fence.ACCEPTED, Fence.DUPLICATE, Fence.STALE
    assert verdicts == [[a], [a], [a], [d], [a], [a], [a], [a, a], [a], [s], [s]]
    assert [answers[place][0].next_sequence for place in (1, 5, 6, 9)] == [1, 3, 4, 0]
    events = (await store.read_events(job_id, 0, 100)).events
    told = [
        json.loads(event.data)["content" if event.kind == "token" else "status"] for event in events
    ]
    assert told == [
        *("pending", "acquired", "loading_model", "t0", "executing"),
        *("t1", "t2", "t3", "completed"),
    ]
    await check_log(tools, job_id)
    await check_books(tools)


async def test_an_unknown_worker_among_others_is_told_so_alone(tools: StoreTools) -> None:
    job_id = await tools.hold()
    ref = AttemptRef(job_id, 1)
    tools.clock.turn(LEASE - 1)
    answers = await together(
        tools,
        tools.store.renew("wrk_nobody", [ref]),
        tools.store.renew("wrk_a", [ref]),
        tools.claim("wrk_nobody"),
        tools.claim("wrk_a", instance_id="another"),
    )
    assert isinstance(answers[0], WorkerUnknownError)
    assert [one.verdict for one in answers[1]] == [Fence.ACCEPTED]
    assert isinstance(answers[2], WorkerUnknownError)
    assert isinstance(answers[3], WorkerReplacedError)
    tools.clock.turn(2)
    assert (await tools.store.reap()).leases_expired == 0


async def test_claims_in_one_commit_share_the_queue(tools: StoreTools) -> None:
    for worker_id in ("wrk_a", "wrk_b"):
        await tools.register(worker_id)
    high = [await tools.submit(priority=9, family="other") for _ in range(2)]
    low = [await tools.submit() for _ in range(5)]
    calls = [
        tools.claim("wrk_a", max_jobs=1),
        tools.claim("wrk_b", max_jobs=2),
        tools.claim("wrk_a", max_jobs=3),
        tools.claim("wrk_b", max_jobs=3),
        tools.claim("wrk_b"),
    ]
    answers = await together(tools, *calls)
    given = [[one.job.job_id for one in answer] for answer in answers]
    assert given == [high[:1], [high[1], low[0]], low[1:4], low[4:], []]
    for one in (leased for answer in answers for leased in answer):
        assert (one.job.attempt, one.lease_seconds) == (1, LEASE)
        await check_log(tools, one.job.job_id)
    await check_books(tools)


async def test_jobs_are_not_left_for_a_worker_that_has_just_become_full(tools: StoreTools) -> None:
    models = (LoadedModel(ModelKey("tiny", "1", "transformers"), load_seconds=60),)
    await tools.register("wrk_warm", slots=2)
    await tools.register("wrk_cold")
    await tools.claim("wrk_warm", models=models)
    jobs = [await tools.submit() for _ in range(4)]
    calls = [
        tools.claim("wrk_warm", models=models),
        tools.claim("wrk_cold", max_jobs=4),
        tools.claim("wrk_warm", models=models),
    ]
    answers = await together(tools, *calls)
    given = [[one.job.job_id for one in answer] for answer in answers]
    assert given == [jobs[:1], jobs[2:], [jobs[1]]]


async def test_a_claim_asked_twice_in_one_commit_is_answered_twice(tools: StoreTools) -> None:
    await tools.register()
    jobs = [await tools.submit() for _ in range(3)]
    request = ClaimRequest(worker_id="wrk_a", max_jobs=2, request_id="r")
    calls = [tools.store.claim(request), tools.store.claim(request), tools.claim(max_jobs=2)]
    first, second, third = await together(tools, *calls)
    assert [one.job.job_id for one in first.jobs] == jobs[:2]
    assert first == second
    assert [one.job.job_id for one in third] == jobs[2:]


async def test_a_caller_that_goes_away_is_not_given_jobs(tools: StoreTools) -> None:
    await tools.register()
    jobs = [await tools.submit() for _ in range(2)]
    async with asyncio.TaskGroup() as group, one_commit(tools):
        gone = group.create_task(tools.claim())
        stays = group.create_task(tools.claim())
        for _ in range(3):
            await asyncio.sleep(0)
        gone.cancel()
    assert [one.job.job_id for one in stays.result()] == jobs[:1]
    assert [one.job.job_id for one in await tools.claim()] == jobs[1:]


async def test_calls_that_are_refused_leave_the_others_in_their_commit(tools: StoreTools) -> None:
    done, held = await hold_jobs(tools, 2)
    waits = await tools.submit()
    await tools.store.report("wrk_a", [completed(done)])
    answers = await together(
        tools,
        tools.store.submit([tools.new_job()]),
        tools.store.cancel_job(done),
        tools.store.report("wrk_a", [completed(held)]),
        tools.store.cancel_job(held),
        tools.store.cancel_job("job_nowhere"),
        tools.store.cancel_job(waits),
        tools.store.cancel_job(waits),
        tools.store.submit([tools.new_job()]),
    )
    assert answers[0][0].created
    assert isinstance(answers[1], ConflictError)
    assert answers[2][0].verdict is Fence.ACCEPTED
    assert isinstance(answers[3], ConflictError)
    assert isinstance(answers[4], JobNotFoundError)
    assert answers[5:7] == [None, None]
    assert answers[7][0].created
    states = [(await tools.store.get_job(job_id)).status for job_id in (done, held, waits)]
    assert states == [JobState.COMPLETED, JobState.COMPLETED, JobState.CANCELLED]
    await check_books(tools)


@pytest.mark.parametrize("number", [1, 2])
async def test_many_jobs_lost_at_once_go_back_together(tools: StoreTools, number: int) -> None:
    jobs = await hold_jobs(tools, 5 * number)
    await tools.store.cancel_job(jobs[0])
    tools.clock.turn(LEASE + 1)
    assert (await tools.store.reap()).leases_expired == 5 * number
    states = [(await tools.store.get_job(job_id)).status for job_id in jobs]
    assert states == [JobState.CANCELLED] + [JobState.PENDING] * (5 * number - 1)
    for job_id in jobs:
        await check_log(tools, job_id)
    await check_books(tools)


async def test_what_a_worker_tells_and_asks_at_once_is_one_commit(tools: StoreTools) -> None:
    ended, running, lost = await hold_jobs(tools, 3)
    waiting = await tools.submit()
    tools.clock.turn(LEASE / 2)
    exchanges = [
        Exchange(
            worker_id="wrk_a",
            reports=[completed(ended)],
            renewals=[AttemptRef(running, 1), AttemptRef(ended, 1), AttemptRef(lost, 2)],
            wanted=ClaimRequest(worker_id="wrk_a", max_jobs=2),
        ),
        Exchange(
            worker_id="wrk_b",
            reports=[completed(running)],
            renewals=[AttemptRef(running, 1)],
            wanted=ClaimRequest(worker_id="wrk_b", max_jobs=2),
        ),
        Exchange(worker_id="wrk_a"),
    ]
    ours, theirs, nothing = await together(tools, *(tools.store.exchange(one) for one in exchanges))
    assert [one.verdict for one in ours.reported] == [Fence.ACCEPTED]
    assert [one.verdict for one in ours.renewed] == [Fence.ACCEPTED, Fence.STALE, Fence.STALE]
    assert [one.job.job_id for one in ours.claimed.jobs] == [waiting]
    assert ours.refusal is None
    assert [one.verdict for one in theirs.reported] == [Fence.STALE]
    assert isinstance(theirs.refusal, WorkerUnknownError)
    assert theirs.claimed is None
    assert (nothing.reported, nothing.renewed, nothing.claimed) == ((), (), None)
    tools.clock.turn(LEASE / 2 + 1)
    await tools.store.reap()
    assert (await tools.store.get_job(ended)).status is JobState.COMPLETED
    assert (await tools.store.get_job(running)).status is JobState.ACQUIRED
    assert (await tools.store.get_job(lost)).status is JobState.PENDING
    for job_id in (ended, running, lost, waiting):
        await check_log(tools, job_id)
    await check_books(tools)
