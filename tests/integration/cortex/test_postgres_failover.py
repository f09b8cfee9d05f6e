"""A PostgreSQL that fails over: a read-only server, then a writable one at the same address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from cortex_tools import StoreTools, eventually, two_replicas, until_answered
from postgres_pair import PostgresPair, Relay, postgres_pair, relay_to
from store_chaos import check_books, check_log

from mnemos.cortex.errors import StorageUnavailableError
from mnemos.cortex.records import Fence, JobFilter, Report
from mnemos.cortex.state_machine import JobState

JOBS = 300
BACK_WITHIN_SECONDS = 5.0

pytestmark = pytest.mark.chaos


@pytest.fixture
def pair() -> Iterator[PostgresPair]:
    with postgres_pair() as pair:
        yield pair


@pytest.fixture
async def address(pair: PostgresPair) -> AsyncIterator[Relay]:
    async with relay_to(pair.primary_socket) as relay:
        yield relay


@pytest.fixture
async def replicas(address: Relay) -> AsyncIterator[list[StoreTools]]:
    async with two_replicas(address.url) as opened:
        yield opened


async def written_until_refused(tools: StoreTools) -> None:
    """Write until the session has heard of its server's new settings, which takes it a moment."""
    async with asyncio.timeout(10):
        while True:
            await tools.store.check_writable()


async def test_a_server_that_became_read_only_is_left_for_the_writable_one(
    pair: PostgresPair, address: Relay, replicas: list[StoreTools]
) -> None:
    first, second = replicas
    job_id = await first.hold()
    # The sessions stay: they learn of it by SQLSTATE 25006 alone.
    pair.run("ALTER SYSTEM SET default_transaction_read_only = on")
    pair.run("SELECT pg_reload_conf()")
    for tools in replicas:
        with pytest.raises(StorageUnavailableError, match=r"read-only|read-write"):
            await written_until_refused(tools)
    # A standby at the address will not do either.
    address.target = pair.standby_socket
    for call in (first.submit(), second.store.get_job(job_id)):
        with pytest.raises(StorageUnavailableError, match="read-only"):
            await call

    await asyncio.to_thread(pair.promote)
    promoted = time.monotonic()
    for tools in replicas:
        await until_answered(tools.store.check_writable)
    assert time.monotonic() - promoted < BACK_WITHIN_SECONDS
    said = Report(job_id=job_id, attempt=1, status=JobState.COMPLETED, result='"a"')
    [verdict] = await second.store.report("wrk_a", [said])
    assert verdict.verdict is Fence.ACCEPTED
    assert (await first.store.get_job(job_id)).result == '"a"'
    await check_log(first, job_id)
    await check_books(first)


async def test_what_one_hears_at_the_new_server_the_other_hears_too(
    pair: PostgresPair, address: Relay, replicas: list[StoreTools]
) -> None:
    first, second = replicas
    await asyncio.to_thread(pair.primary.crash)
    await asyncio.to_thread(pair.promote)
    address.target = pair.standby_socket
    address.cut()
    await until_answered(first.store.check_writable)
    await until_answered(second.store.check_writable)
    job_id = await first.submit()
    with second.notifier.subscribe(f"job/{job_id}") as ear:

        async def is_heard() -> bool:
            await first.store.cancel_job(job_id)
            await until_answered(lambda: first.store.retry_job(job_id))
            return await ear.wait(0.2)

        await eventually(is_heard, "the other replica hears of it", 15)


async def test_a_fail_over_under_load_loses_nothing_that_was_acknowledged(
    pair: PostgresPair, address: Relay, replicas: list[StoreTools]
) -> None:
    new = [
        replicas[0].new_job(group="g", idempotency_key=f"key{number}", max_retries=50)
        for number in range(JOBS)
    ]
    acknowledged: set[str] = set()
    done: set[str] = set()
    for number in range(2):
        await replicas[0].register(f"wrk_{number}", slots=10)

    async def submit(tools: StoreTools, number: int) -> None:
        for job in new[number::2]:
            [stored] = await until_answered(lambda job=job: tools.store.submit([job]))  # type: ignore[misc]  # bound now
            acknowledged.add(stored.job_id)

    async def work(tools: StoreTools, worker_id: str) -> None:
        while len(done) < JOBS:
            for leased in await until_answered(lambda: tools.claim(worker_id, max_jobs=5)):
                job_id, attempt = leased.job.job_id, leased.job.attempt
                said = Report(job_id=job_id, attempt=attempt, status=JobState.COMPLETED, result="1")
                [verdict] = await until_answered(
                    lambda said=said: tools.store.report(worker_id, [said])  # type: ignore[misc]  # bound now
                )
                if verdict.verdict in {Fence.ACCEPTED, Fence.DUPLICATE}:
                    done.add(job_id)

    async def mind(tools: StoreTools) -> None:
        while len(done) < JOBS:
            await until_answered(tools.store.reap)
            await until_answered(tools.store.promote_due)
            await asyncio.sleep(0.2)

    back: list[float] = []

    async def fail_over() -> None:
        async def is_half_way() -> bool:
            return len(done) >= JOBS // 3

        await eventually(is_half_way, "a third is done", 60)
        await asyncio.to_thread(pair.primary.crash)
        await asyncio.to_thread(pair.promote)
        address.target = pair.standby_socket
        address.cut()
        switched = time.monotonic()
        for tools in replicas:
            await until_answered(tools.store.check_writable)
        back.append(time.monotonic() - switched)

    async with asyncio.timeout(110), asyncio.TaskGroup() as group:
        group.create_task(fail_over())
        for number, tools in enumerate(replicas):
            group.create_task(submit(tools, number))
            group.create_task(work(tools, f"wrk_{number}"))
            group.create_task(mind(tools))
    assert back[0] < BACK_WITHIN_SECONDS
    jobs = await replicas[1].store.list_jobs(JobFilter(limit=1000))
    assert {job.job_id for job in jobs} == acknowledged == done
    assert {job.status for job in jobs} == {JobState.COMPLETED}
    for job in jobs:
        await check_log(replicas[0], job.job_id)
    await check_books(replicas[1])
