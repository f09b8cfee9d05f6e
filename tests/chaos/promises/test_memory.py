"""The memory of a worker and of CORTEX does not grow with the jobs they have done."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from echo_jobs import echo_job, echo_text
from figures import Figures, Scale
from fleet import Fleet
from fleet_load import Load, Task
from stack import Process

pytestmark = pytest.mark.timeout(900)

SLOTS = 64
TOKENS = 8
WARM_UP = 2_000
PARKED = 6_000
PARKED_AT_ONCE = 60
PARKED_BYTES = 4_000
SAMPLE_EVERY = 100
MOST_MIB_PER_1000_JOBS = 1.0


@dataclass
class Growth:
    """Resident memory of a process over the number of jobs done."""

    process: psutil.Process
    jobs: list[int] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, process: Process) -> Growth:
        return cls(psutil.Process(process.pid))

    def sample(self, jobs: int) -> None:
        self.jobs.append(jobs)
        self.mib.append(self.process.memory_info().rss / 2**20)

    @property
    def mib_per_1000_jobs(self) -> float:
        return statistics.linear_regression(self.jobs, self.mib).slope * 1000


def tasks_without_wait(count: int) -> list[Task]:
    return [
        Task(
            index,
            echo_job("memory", index, tokens=TOKENS, stream=index % 2 == 0, token_seconds=0),
            echo_text(index, TOKENS),
            index % 2 == 0,
        )
        for index in range(count)
    ]


async def fill_the_page_cache(fleet: Fleet) -> None:
    """Park jobs that no worker takes, more than the 16 MiB of its database that CORTEX keeps.

    Else that cache is what grows, until it is full: the first 11,000 small jobs fill it.
    """
    body = echo_job("parked", 0)
    body["model"]["runtime"] = "transformers"
    del body["model"]["runtime_config"]["token_seconds"]
    body["input"]["prompt"] = "x" * PARKED_BYTES
    for first in range(0, PARKED, PARKED_AT_ONCE):
        jobs = [
            body | {"idempotency_key": f"parked-{number}"}
            for number in range(first, first + PARKED_AT_ONCE)
        ]
        answer = await fleet.http.post(f"{fleet.urls[0]}/api/v1/jobs/batch", json={"jobs": jobs})
        assert answer.status_code == 200, answer.text


async def test_memory_stays_flat(tmp_path: Path, scale: Scale, figures: Figures) -> None:
    jobs = WARM_UP + scale.of(20_000, 4_000)
    async with Fleet(tmp_path) as fleet:
        worker = await fleet.worker_serves(fleet.start_worker(SLOTS))
        cortex = fleet.replicas[0].process
        assert cortex is not None
        grown = {"worker": Growth.of(worker.process), "CORTEX": Growth.of(cortex)}
        await fill_the_page_cache(fleet)
        load = Load(fleet, "memory", tasks_without_wait(jobs), backlog=4 * SLOTS)

        async def sample() -> None:
            for done in range(WARM_UP, jobs, SAMPLE_EVERY):
                await load.reached(done)
                for growth in grown.values():
                    growth.sample(load.finished)

        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            group.create_task(sample())
        seconds = time.monotonic() - began
    figures.note("jobs after the warm-up", jobs - WARM_UP)
    figures.note("time", seconds, "s")
    for name, growth in grown.items():
        figures.note(f"{name} MiB per 1,000 jobs", growth.mib_per_1000_jobs)
        figures.note(f"{name} ends with", growth.mib[-1], "MiB")
    for name, growth in grown.items():
        assert growth.mib_per_1000_jobs <= MOST_MIB_PER_1000_JOBS, f"{name}: {growth.mib}"
