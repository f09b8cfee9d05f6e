"""A fleet whose workers are killed and stopped and whose CORTEX is killed, all the time."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import astuple
from pathlib import Path

import pytest
from figures import Figures, Scale
from fleet import Fleet
from fleet_books import Books, count_by_attempts, read_books
from fleet_faults import Faults, Happened, Plan
from fleet_load import Load, tasks_of_lease_length
from postgres_tools import Postgres

pytestmark = pytest.mark.timeout(900)

LEASE_SECONDS = 2.0
WORKERS = 8
SLOTS = 12
SEED = 4


def plan_of(scale: Scale) -> tuple[int, Plan]:
    """How many jobs, and what happens meanwhile."""
    plan = Plan(
        worker_kills=scale.of(52, 11),
        worker_stops=scale.of(52, 11),
        server_kills=scale.of(15, 3),
    )
    return scale.of(5_000, 1_000), plan


async def run_fleet(fleet: Fleet, jobs: int, plan: Plan, figures: Figures) -> None:
    dice = random.Random(SEED)
    tasks = tasks_of_lease_length("fleet", jobs, LEASE_SECONDS, dice)
    load = Load(fleet, "fleet", tasks, backlog=3 * WORKERS * SLOTS)
    faults = Faults(fleet, load, plan, dice)
    async with fleet:
        workers = [fleet.start_worker(SLOTS) for _ in range(WORKERS)]
        for worker in workers:
            await fleet.worker_serves(worker)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            group.create_task(faults.run())
        seconds = time.monotonic() - began
    outages = [outage for replica in fleet.replicas for outage in replica.outages]
    books = await read_books(fleet, load)
    note(figures, books, faults.happened, seconds)
    again = books.seconds_to_next_attempt(faults.happened.kills, outages)
    figures.note("a killed worker's jobs run again, p50", again[len(again) // 2], "s")
    figures.note("p99", again[int(len(again) * 0.99)], f"s (goal {LEASE_SECONDS + 2:g} s)")
    assert_not_vacuous(load, books, faults.happened, plan)
    books.check(jobs)


def note(figures: Figures, books: Books, happened: Happened, seconds: float) -> None:
    figures.note("jobs", len(books.ended))
    figures.note("kill -9 of workers", len(happened.kills))
    figures.note("SIGSTOP", len(happened.stop_seconds))
    figures.note("longer than a lease", sum(one > LEASE_SECONDS for one in happened.stop_seconds))
    figures.note("kill -9 of CORTEX", happened.server_kills)
    figures.note("retried", books.retried)
    figures.note("attempts lost", books.attempts_lost())
    figures.note("most attempts", max(count_by_attempts(books)))
    figures.note("lost", len(books.lost))
    figures.note("double", books.doubled)
    figures.note("wrong", len(books.wrong))
    figures.note("time", seconds, "s")


def assert_not_vacuous(load: Load, books: Books, happened: Happened, plan: Plan) -> None:
    done = (len(happened.kills), len(happened.stop_seconds), happened.server_kills)
    assert done == astuple(plan)
    assert any(seconds > LEASE_SECONDS for seconds in happened.stop_seconds)
    assert len(load.acknowledged) >= 0.8 * len(load.tasks)
    assert books.retried >= 0.05 * len(load.tasks)
    assert any(reading.connections > 1 for reading in load.readings)


async def test_fleet_on_sqlite(tmp_path: Path, scale: Scale, figures: Figures) -> None:
    await run_fleet(Fleet(tmp_path, lease_seconds=LEASE_SECONDS), *plan_of(scale), figures)


async def test_fleet_on_two_replicas_on_postgresql(
    tmp_path: Path, postgres: Postgres, scale: Scale, figures: Figures
) -> None:
    with postgres.database("template0") as url:
        fleet = Fleet(tmp_path, replicas=2, lease_seconds=LEASE_SECONDS, database_url=url)
        await run_fleet(fleet, *plan_of(scale), figures)
