"""Two stores on one database, as two CORTEX replicas have them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import psycopg
import pytest
from cortex_tools import LEASE, StoreTools, TurnableClock, eventually, running_cortex
from pydantic import SecretStr
from store_chaos import WORKERS, Chaos, check_books, check_log

from mnemos.cortex.notifier import LocalNotifier, group_topic, job_topic, runtime_topic
from mnemos.cortex.records import Fence, JobFilter, Report
from mnemos.cortex.settings import CortexSettings
from mnemos.cortex.sql.postgres.notices import CHANNEL
from mnemos.cortex.sql.postgres.store import PostgresStore
from mnemos.cortex.state_machine import JobState
from mnemos.protocol.v1 import cortex_pb2 as pb

LIVE_REPLICAS = """
SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
WHERE locktype = 'advisory' AND datname = current_database()
"""
JOBS = 150
STEPS = 150


@pytest.fixture
async def replicas(postgres_url: str, clock: TurnableClock) -> AsyncIterator[list[StoreTools]]:
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(2):
            notifier = LocalNotifier()
            store = PostgresStore(
                postgres_url, notifier, lease_seconds=LEASE, clock=clock, random=lambda: 0.5
            )
            opened.append(StoreTools(await stack.enter_async_context(store), clock, notifier))
        yield opened


def completed(job_id: str, attempt: int) -> Report:
    return Report(job_id=job_id, attempt=attempt, status=JobState.COMPLETED, result="1")


async def test_no_job_is_given_twice(replicas: list[StoreTools]) -> None:
    first, second = replicas
    for worker_id in ("wrk_a", "wrk_b"):
        await first.register(worker_id)
    await first.store.submit([first.new_job(family=f"m{n % 5}") for n in range(JOBS)])
    given: Counter[str] = Counter()

    async def take(tools: StoreTools, worker_id: str) -> None:
        while sum(given.values()) < JOBS:
            leased = await tools.claim(worker_id, max_jobs=4)
            given.update(one.job.job_id for one in leased)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for tools, worker_id in ((first, "wrk_a"), (second, "wrk_b")):
            for _ in range(3):
                group.create_task(take(tools, worker_id))
    assert set(given.values()) == {1}
    assert len(given) == JOBS


async def test_only_who_is_not_alone_tells_others(postgres_url: str, clock: TurnableClock) -> None:
    def store() -> PostgresStore:
        return PostgresStore(postgres_url, LocalNotifier(), clock=clock)

    def told_of(commits: int) -> int:
        """How many commits were told; waits for those that must be."""
        return len(list(ear.notifies(timeout=5 if commits else 0, stop_after=commits or None)))

    async def is_alone() -> bool:
        """Whether PostgreSQL has ended the other's session, which takes it a moment."""
        return watch.execute(LIVE_REPLICAS).fetchone() == (1,)

    with (
        psycopg.connect(postgres_url, autocommit=True) as ear,
        psycopg.connect(postgres_url, autocommit=True) as watch,
    ):
        ear.execute(f"LISTEN {CHANNEL}")
        async with store() as first:
            tools = StoreTools(first, clock, LocalNotifier())
            await tools.submit()
            assert told_of(0) == 0
            async with store():
                await tools.submit()
                assert told_of(1) == 1
            await eventually(is_alone, "the other is gone")
            await tools.submit()
            assert told_of(0) == 0


async def test_a_claim_that_others_were_faster_for_is_told_to_ask_again_or_has_a_job(
    replicas: list[StoreTools],
) -> None:
    first, second = replicas
    await first.register("wrk_a")
    await first.register("wrk_b")
    await first.store.submit([first.new_job() for _ in range(2)])

    async def take(tools: StoreTools, worker_id: str) -> str:
        [leased] = await tools.claim(worker_id)
        return leased.job.job_id

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        tasks = [group.create_task(take(first, "wrk_a")), group.create_task(take(second, "wrk_b"))]
    assert len({task.result() for task in tasks}) == 2


async def test_a_submission_at_one_wakes_who_waits_at_the_other(
    replicas: list[StoreTools],
) -> None:
    first, second = replicas
    await first.register()
    with second.notifier.subscribe(runtime_topic("transformers")) as ear:
        job_id = await first.submit()
        assert await ear.wait(5)
    [leased] = await second.claim()
    assert leased.job.job_id == job_id
    with first.notifier.subscribe(job_topic(job_id)) as ear:
        await second.store.report("wrk_a", [completed(job_id, 1)])
        assert await ear.wait(5)
    assert (await first.store.get_job(job_id)).status is JobState.COMPLETED


async def test_a_batch_with_more_topics_than_one_notification_holds_wakes_all(
    replicas: list[StoreTools],
) -> None:
    first, second = replicas
    jobs = [first.new_job(group="g" * 200 + str(n)) for n in range(60)]
    async with AsyncExitStack() as stack:
        ears = [
            stack.enter_context(second.notifier.subscribe(group_topic(job.group or "")))
            for job in jobs
        ]
        await first.store.submit(jobs)
        assert all([await ear.wait(5) for ear in ears])


async def test_one_key_used_at_both_makes_one_job(replicas: list[StoreTools]) -> None:
    async def submit(tools: StoreTools, key: str) -> tuple[str, bool]:
        [stored] = await tools.store.submit([tools.new_job(idempotency_key=key)])
        return stored.job_id, stored.created

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(submit(tools, f"key{n}")) for n in range(30) for tools in replicas
        ]
    answers = [task.result() for task in tasks]
    assert len({job_id for job_id, _ in answers}) == 30
    assert sum(created for _, created in answers) == 30


@pytest.mark.parametrize("winner", ["complete", "cancel", "expire"])
async def test_one_of_completion_cancel_and_expiry_wins(
    replicas: list[StoreTools], clock: TurnableClock, winner: str
) -> None:
    first, second = replicas
    held = [await first.hold(max_retries=0) for _ in range(20)]
    clock.turn(LEASE + 1 if winner == "expire" else 1)
    verdicts: Counter[Fence] = Counter()

    async def complete(job_id: str) -> None:
        [verdict] = await first.store.report("wrk_a", [completed(job_id, 1)])
        verdicts[verdict.verdict] += 1

    async def interfere(job_id: str) -> None:
        if winner == "expire":
            await second.store.reap()
        elif winner == "cancel":
            try:
                await second.store.cancel_job(job_id)
            except Exception as error:
                if "has ended" not in str(error):
                    raise

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for job_id in held:
            group.create_task(complete(job_id))
            group.create_task(interfere(job_id))
    jobs = {job.job_id: job for job in await first.store.list_jobs(JobFilter(limit=100))}
    ended = Counter(jobs[job_id].status for job_id in held)
    assert ended[JobState.COMPLETED] + ended[JobState.CANCELLED] + ended[JobState.FAILED] == 20
    if winner == "complete":
        assert ended[JobState.COMPLETED] == 20
    assert ended[JobState.FAILED] == verdicts[Fence.STALE]
    for job_id in held:
        attempts = await first.store.get_attempts(job_id)
        assert len(attempts) == 1
        await check_log(first, job_id)
    await check_books(second)


async def test_a_reader_that_pages_by_finish_number_misses_no_job(
    replicas: list[StoreTools],
) -> None:
    first, second = replicas
    for worker_id in ("wrk_a", "wrk_b"):
        await first.register(worker_id, slots=100)
    await first.store.submit([first.new_job(group="g") for _ in range(JOBS)])
    done = asyncio.Event()
    seen: list[str] = []

    async def finish(tools: StoreTools, worker_id: str) -> None:
        while leased := await tools.claim(worker_id, max_jobs=2):
            for one in leased:
                await tools.store.report(worker_id, [completed(one.job.job_id, one.job.attempt)])

    async def read() -> None:
        after, last_round = 0, False
        while True:
            page = await first.store.group_results("g", after, 10)
            seen.extend(job.job_id for job in page)
            after = page[-1].finish_seq or 0 if page else after
            if last_round and not page:
                return
            last_round = done.is_set()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(read())
        async with asyncio.TaskGroup() as finishing:
            for tools, worker_id in ((first, "wrk_a"), (second, "wrk_b")):
                for _ in range(3):
                    finishing.create_task(finish(tools, worker_id))
        leftover = await first.claim("wrk_a", max_jobs=100)
        for one in leftover:
            await first.store.report("wrk_a", [completed(one.job.job_id, one.job.attempt)])
        done.set()
    assert len(seen) == len(set(seen)) == JOBS


@pytest.mark.parametrize("seed", range(3))
async def test_the_books_balance_whatever_two_replicas_do_at_once(
    replicas: list[StoreTools], seed: int
) -> None:
    for worker_id in WORKERS:
        await replicas[0].register(worker_id)
    chaoses = [Chaos(tools, 10 * seed + n) for n, tools in enumerate(replicas) for _ in range(2)]

    async def act(chaos: Chaos) -> None:
        for _ in range(STEPS):
            await chaos.step()

    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        for chaos in chaoses:
            group.create_task(act(chaos))
    await check_books(replicas[1])
    accepted: Counter[str] = Counter()
    for chaos in chaoses:
        accepted.update(chaos.accepted)
        for job_id in chaos.jobs:
            await check_log(replicas[0], job_id)
    assert accepted
    assert set(accepted.values()) == {1}


async def test_a_replica_that_starts_beside_another_expires_what_is_due(
    replicas: list[StoreTools], postgres_url: str, clock: TurnableClock
) -> None:
    job_id = await replicas[0].hold()
    clock.turn(LEASE + 1)
    async with PostgresStore(
        postgres_url, LocalNotifier(), lease_seconds=LEASE, clock=clock
    ) as third:
        assert (await third.reap()).leases_expired == 1
    assert (await replicas[1].store.get_job(job_id)).delayed


async def test_many_may_start_at_once_on_a_database_without_tables(postgres_empty: str) -> None:
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            stores = [PostgresStore(postgres_empty, LocalNotifier()) for _ in range(4)]
            for store in stores:
                group.create_task(stack.enter_async_context(store))
        for store in stores:
            await store.check_writable()


async def test_a_client_and_a_worker_may_each_talk_to_another_replica(
    settings: CortexSettings, postgres_url: str
) -> None:
    shared = settings.model_copy(update={"database_url": SecretStr(postgres_url)})
    async with running_cortex(shared) as first, running_cortex(shared) as second:
        second.worker_id = await first.register()
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            waiting = group.create_task(second.acquire(wait=15))
            await second.server_waits_for(second.worker_id)
            job_id = await first.submit()
            [leased] = await waiting
            assert leased.job.job_id == job_id
        path = f"/api/v1/jobs/{job_id}/stream"
        async with asyncio.timeout(20), first.http.stream("GET", path) as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == "id: 0"
            await second.chunks(job_id, "Hel", "lo")
            await second.complete(job_id)
            heard = [line async for line in lines]
        assert sum(line == "event: token" for line in heard) == 2
        assert "event: end" in heard


async def test_a_worker_that_starts_anew_at_one_is_known_by_its_new_runtimes_at_the_other(
    settings: CortexSettings, postgres_url: str
) -> None:
    shared = settings.model_copy(update={"database_url": SecretStr(postgres_url)})
    async with running_cortex(shared) as first, running_cortex(shared) as second:
        second.worker_id = await first.register()
        assert await second.acquire(wait=0, instance_id="one") == []
        can = pb.WorkerCapabilities(supported_runtimes=["vllm"], max_concurrent_jobs=8)
        again = {"worker_id": second.worker_id, "instance_id": "two", "capabilities": can}
        await first.register(**again)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            waiting = group.create_task(second.acquire(wait=15, instance_id="two"))
            await second.server_waits_for(second.worker_id)
            model = {"family": "tiny", "version": "1", "runtime": "vllm"}
            job_id = await first.submit(model=model)
            [leased] = await waiting
        assert leased.job.job_id == job_id
