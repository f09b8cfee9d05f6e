"""PostgreSQL crashes under a fleet at work, and comes back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from cortex_tools import eventually
from figures import Figures, Scale
from fleet import Fleet, Replica
from fleet_books import read_books
from fleet_load import Load, tasks_of_lease_length
from postgres_tools import OwnServer, own_server

pytestmark = pytest.mark.timeout(600)

LEASE_SECONDS = 2.0
WORKERS = 4
SLOTS = 10
SERVING_AGAIN_SECONDS = 5.0
DOWN_SECONDS = (0.0, 2.5)


@pytest.fixture
def server() -> Iterator[OwnServer]:
    with own_server() as server:
        yield server


class Crashes:
    """Stops the database hard, some time later starts it, and measures until all serve again."""

    def __init__(self, server: OwnServer, fleet: Fleet, load: Load, count: int) -> None:
        self.seconds: list[float] = []
        self.unready = 0
        """How often a replica said that it could not work."""
        self._server = server
        self._fleet = fleet
        self._load = load
        self._count = count
        self._dice = random.Random(count)

    async def run(self) -> None:
        for number in range(self._count):
            await self._load.reached((number + 1) * len(self._load.tasks) // (self._count + 2))
            await asyncio.to_thread(self._server.crash)
            self.unready += sum([not await self._is_ready(one) for one in self._fleet.replicas])
            await asyncio.sleep(self._dice.uniform(*DOWN_SECONDS))
            await asyncio.to_thread(self._server.start)
            began = time.monotonic()
            for replica in self._fleet.replicas:
                await eventually(lambda one=replica: self._submits(one), "CORTEX serves", 60)  # type: ignore[misc]  # bound now
            self.seconds.append(time.monotonic() - began)

    async def _is_ready(self, replica: Replica) -> bool:
        return (await self._fleet.http.get(f"{replica.url}/ready")).status_code == 200

    async def _submits(self, replica: Replica) -> bool:
        """Whether it takes a submission: one that was acknowledged before, so no new job."""
        job_id, task = next(iter(self._load.acknowledged.items()))
        try:
            answer = await self._fleet.http.post(f"{replica.url}/api/v1/jobs", json=task.body)
        except httpx2.TransportError:
            return False
        return answer.status_code == 200 and answer.json()["job_id"] == job_id


async def test_crashes_of_postgresql_lose_nothing(
    tmp_path: Path, server: OwnServer, scale: Scale, figures: Figures
) -> None:
    jobs, crashes = scale.of(1_500, 300), scale.of(5, 2)
    tasks = tasks_of_lease_length("crashes", jobs, LEASE_SECONDS, random.Random(jobs))
    fleet = Fleet(tmp_path, replicas=2, lease_seconds=LEASE_SECONDS, database_url=server.url)
    load = Load(fleet, "crashes", tasks, backlog=3 * WORKERS * SLOTS)
    async with fleet:
        for worker in [fleet.start_worker(SLOTS) for _ in range(WORKERS)]:
            await fleet.worker_serves(worker)
        chaos = Crashes(server, fleet, load, crashes)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            group.create_task(chaos.run())
        seconds = time.monotonic() - began
    books = await read_books(fleet, load)
    figures.note("jobs", len(books.ended))
    figures.note("crashes", len(chaos.seconds))
    figures.note("serving again after at most", max(chaos.seconds), "s")
    figures.note("retried", books.retried)
    figures.note("lost", len(books.lost))
    figures.note("double", books.doubled)
    figures.note("wrong", len(books.wrong))
    figures.note("time", seconds, "s")
    assert len(chaos.seconds) == crashes
    assert chaos.unready == crashes * len(fleet.replicas)
    books.check(jobs)
    assert max(chaos.seconds) <= SERVING_AGAIN_SECONDS
