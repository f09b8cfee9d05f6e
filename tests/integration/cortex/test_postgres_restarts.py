"""PostgreSQL crashes and comes back while two replicas are at work: nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
from cortex_tools import StoreTools, eventually, two_replicas, until_answered
from postgres_tools import OwnServer, own_server
from store_chaos import check_books, check_log

from mnemos.cortex.errors import StorageUnavailableError
from mnemos.cortex.ids import new_id
from mnemos.cortex.records import ClaimRequest, Fence, NewJob, Report
from mnemos.cortex.state_machine import JobState

CRASHES = 3
JOBS = 400
LEASE = 3.0

pytestmark = pytest.mark.chaos


@pytest.fixture
def server() -> Iterator[OwnServer]:
    with own_server() as server:
        yield server


@pytest.fixture
async def replicas(server: OwnServer) -> AsyncIterator[list[StoreTools]]:
    async with two_replicas(server.url, lease_seconds=LEASE) as opened:
        yield opened


class Load:
    """People who submit and workers who work, through whichever replica is theirs."""

    def __init__(self, replicas: list[StoreTools]) -> None:
        self.replicas = replicas
        self.acknowledged: set[str] = set()
        self.accepted: Counter[str] = Counter()
        self.done: set[str] = set()

    async def submit(self, tools: StoreTools, jobs: list[NewJob]) -> None:
        for job in jobs:
            [stored] = await until_answered(lambda job=job: tools.store.submit([job]))  # type: ignore[misc]  # bound now
            assert stored.job_id == job.job_id
            self.acknowledged.add(stored.job_id)

    async def work(self, tools: StoreTools, worker_id: str) -> None:
        while len(self.done) < JOBS:
            request = ClaimRequest(
                worker_id=worker_id, max_jobs=5, request_id=new_id("req"), max_bytes=10**6
            )
            claimed = await until_answered(lambda: tools.store.claim(request))  # noqa: B023  awaited here
            for leased in claimed.jobs:
                await self.report(tools, worker_id, leased.job.job_id, leased.job.attempt)

    async def report(self, tools: StoreTools, worker_id: str, job_id: str, attempt: int) -> None:
        said = Report(job_id=job_id, attempt=attempt, status=JobState.COMPLETED, result="1")
        [verdict] = await until_answered(lambda: tools.store.report(worker_id, [said]))
        if verdict.verdict in {Fence.ACCEPTED, Fence.DUPLICATE}:
            self.accepted[job_id] += 1
            self.done.add(job_id)

    async def mind(self, tools: StoreTools) -> None:
        """What the reaper and the promoter do."""
        while len(self.done) < JOBS:
            await until_answered(tools.store.reap)
            await until_answered(tools.store.promote_due)
            await asyncio.sleep(0.2)


async def test_crashes_under_load_lose_nothing(
    server: OwnServer, replicas: list[StoreTools]
) -> None:
    load = Load(replicas)
    new = [
        replicas[0].new_job(group="g", idempotency_key=f"key{n}", max_retries=50)
        for n in range(JOBS)
    ]
    for number in range(4):
        await replicas[0].register(f"wrk_{number}", slots=10)
    back: list[float] = []

    async def crash() -> None:
        for number in range(CRASHES):
            reached = (number + 1) * JOBS // (CRASHES + 2)

            async def is_reached(reached: int = reached) -> bool:
                return len(load.done) >= reached

            await eventually(is_reached, f"{reached} jobs are done", 60)
            await asyncio.to_thread(server.crash)
            await asyncio.to_thread(server.start)
            started = time.monotonic()
            for tools in replicas:
                await until_answered(tools.store.check_writable)
            back.append(time.monotonic() - started)

    async with asyncio.timeout(110), asyncio.TaskGroup() as group:
        group.create_task(crash())
        for number in range(4):
            tools = replicas[number % 2]
            group.create_task(load.submit(tools, new[number::4]))
            group.create_task(load.work(tools, f"wrk_{number}"))
        for tools in replicas:
            group.create_task(load.mind(tools))
    assert len(back) == CRASHES
    assert max(back) < 5
    assert load.acknowledged == load.done == {job.job_id for job in new}
    assert set(load.accepted.values()) == {1}
    for job in new:
        assert (await replicas[1].store.get_job(job.job_id)).status is JobState.COMPLETED
        await check_log(replicas[1], job.job_id)
    await check_books(replicas[0])


async def test_while_it_is_gone_cortex_says_so_and_leases_wait(
    server: OwnServer, replicas: list[StoreTools]
) -> None:
    tools = replicas[0]
    job_id = await tools.hold()
    server.crash()
    started = time.monotonic()
    with pytest.raises(StorageUnavailableError, match="cannot use its database"):
        await tools.store.check_writable()
    with pytest.raises(StorageUnavailableError, match="cannot use its database"):
        await tools.store.get_job(job_id)
    while time.monotonic() - started < LEASE + 0.5:
        with pytest.raises(StorageUnavailableError):
            await tools.store.reap()
        await asyncio.sleep(0.1)
    server.start()
    for one in replicas:
        assert (await until_answered(one.store.reap)).leases_expired == 0
    said = Report(job_id=job_id, attempt=1, status=JobState.COMPLETED, result="1")
    [verdict] = await tools.store.report("wrk_a", [said])
    assert verdict.verdict is Fence.ACCEPTED
