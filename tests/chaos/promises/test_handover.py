"""How soon the jobs of a worker that was killed, or drained, run elsewhere."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from echo_jobs import echo_job
from figures import Figures, Scale
from fleet import Fleet, Worker

pytestmark = pytest.mark.timeout(600)

DEFAULT_LEASE_SECONDS = 15.0
JOBS = 30
TOKENS = 100_000
"""More than any test waits for."""
PATIENCE_SECONDS = 60.0


class Watch:
    """Follows jobs, and knows when each attempt's first token was seen (by the loop's clock)."""

    def __init__(self, fleet: Fleet, job_ids: list[str]) -> None:
        self._fleet = fleet
        self._first_token: dict[str, dict[int, float]] = {job_id: {} for job_id in job_ids}
        self._news = asyncio.Condition()

    async def follow(self, job_id: str) -> None:
        """Read a job's events for ever."""
        clock = asyncio.get_running_loop().time
        first_token = self._first_token[job_id]
        path = f"{self._fleet.urls[0]}/api/v1/jobs/{job_id}/stream"
        async with self._fleet.http.stream("GET", path) as answer:
            kind = ""
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data" and kind == "token":
                    attempt = json.loads(value)["attempt"]
                    if attempt not in first_token:
                        first_token[attempt] = clock()
                        async with self._news:
                            self._news.notify_all()
        raise AssertionError(f"{job_id} ended")

    async def all_run(self, attempt: int) -> list[float]:
        """Return when that attempt of each job brought its first token."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._news:
            await self._news.wait_for(
                lambda: all(attempt in seen for seen in self._first_token.values())
            )
        return [seen[attempt] for seen in self._first_token.values()]


@asynccontextmanager
async def jobs_of_one_worker(fleet: Fleet) -> AsyncIterator[tuple[Worker, Watch]]:
    """A worker that runs all jobs of a fleet, which have no end, and who follows them."""
    async with fleet:
        worker = await fleet.worker_serves(fleet.start_worker(JOBS, shutdown_timeout=0))
        jobs = [echo_job("handover", n, tokens=TOKENS, stream=True) for n in range(JOBS)]
        answer = await fleet.http.post(f"{fleet.urls[0]}/api/v1/jobs/batch", json={"jobs": jobs})
        job_ids = [line["job_id"] for line in answer.json()["results"]]
        watch = Watch(fleet, job_ids)
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(watch.follow(job_id)) for job_id in job_ids]
            await watch.all_run(1)
            yield worker, watch
            for reader in readers:
                reader.cancel()


async def seconds_to_run_elsewhere(
    fleet: Fleet, rounds: int, end: Callable[[Worker], Awaitable[None]], *, within: float = 0.0
) -> list[float]:
    """End the worker that runs all jobs beside an idle one, again and again; return in order.

    Each time at a moment of the next `within` seconds: what follows may hang on the last renewal.
    """
    clock = asyncio.get_running_loop().time
    dice = random.Random(rounds)
    taken: list[float] = []
    async with jobs_of_one_worker(fleet) as (worker, watch):
        for attempt in range(1, rounds + 1):
            idle = await fleet.worker_serves(fleet.start_worker(JOBS, shutdown_timeout=0))
            await asyncio.sleep(dice.uniform(0, within))
            ended_at = clock()
            await end(worker)
            taken += [at - ended_at for at in await watch.all_run(attempt + 1)]
            worker = idle
    return sorted(taken)


def note(figures: Figures, taken: list[float], goal_seconds: float) -> float:
    """Note the times and return their 99th percentile."""
    p99 = taken[int(len(taken) * 0.99)]
    figures.note("jobs", len(taken))
    figures.note("run elsewhere p50", taken[len(taken) // 2], "s")
    figures.note("p99", p99, f"s (goal {goal_seconds:g} s)")
    return p99


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_jobs_of_a_lost_worker_run_elsewhere(
    tmp_path: Path, scale: Scale, figures: Figures, how: signal.Signals
) -> None:
    """A killed one's connections break; a stopped one's do not, as if its machine had gone."""
    fleet = Fleet(tmp_path, lease_seconds=DEFAULT_LEASE_SECONDS)
    goal_seconds = DEFAULT_LEASE_SECONDS + 2

    async def lose(worker: Worker) -> None:
        worker.process.signal(how)

    between_renewals = DEFAULT_LEASE_SECONDS / 3
    taken = await seconds_to_run_elsewhere(fleet, scale.of(10, 1), lose, within=between_renewals)
    assert taken[0] > 1, "the jobs were not the lost worker's"
    assert note(figures, taken, goal_seconds) <= goal_seconds


async def test_jobs_of_a_worker_told_to_end_run_elsewhere(
    tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    fleet = Fleet(tmp_path, lease_seconds=DEFAULT_LEASE_SECONDS)

    async def terminate(worker: Worker) -> None:
        worker.process.signal(signal.SIGTERM)

    taken = await seconds_to_run_elsewhere(fleet, scale.of(10, 2), terminate)
    assert note(figures, taken, 1.0) <= 1


async def test_jobs_of_a_worker_drained_from_afar_run_elsewhere(
    tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    fleet = Fleet(tmp_path, lease_seconds=DEFAULT_LEASE_SECONDS)

    async def drain(worker: Worker) -> None:
        """What `mnemos workers drain --deadline 0` asks for."""
        path = f"{fleet.urls[0]}/api/v1/workers/{worker.worker_id}/drain"
        answer = await fleet.http.post(path, json={"deadline_seconds": 0, "reason": "a test"})
        assert answer.status_code == 200, answer.text

    taken = await seconds_to_run_elsewhere(fleet, scale.of(10, 2), drain)
    assert note(figures, taken, 1.0) <= 1
