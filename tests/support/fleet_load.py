"""People who submit jobs to a fleet and follow some of them, whatever happens to it."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
from echo_jobs import TOKEN_SECONDS, echo_job, echo_text
from fleet import Fleet

SUBMITTERS = 4
MOST_AT_ONCE = 8
FOLLOWED_EVERY = 20
PATIENCE_SECONDS = 90.0
"""How long no job at all may end before the fleet is taken to be stuck."""


@dataclass(frozen=True, slots=True)
class Task:
    """A job to submit, and the answer it must get."""

    index: int
    body: dict[str, Any]
    text: str
    stream: bool


def tasks_of_lease_length(
    group: str, count: int, lease_seconds: float, dice: random.Random
) -> list[Task]:
    """Two of three take about as long as a lease; every second is streamed.

    With short jobs alone hardly any attempt is alive when its lease has ended: random faults
    would not find that a late result is taken, or that two attempts' tokens are mixed.
    """
    tasks = []
    for index in range(count):
        long = index % 3 != 0
        seconds = lease_seconds * (dice.uniform(0.5, 1.25) if long else dice.uniform(0.05, 0.25))
        tokens = max(1, round(seconds / TOKEN_SECONDS))
        stream = index % 2 == 0
        body = echo_job(group, index, tokens=tokens, stream=stream)
        tasks.append(Task(index, body, echo_text(index, tokens), stream))
    return tasks


@dataclass(slots=True)
class Reading:
    """What one reader was told of a job: its events in order, and the job at its end."""

    job_id: str
    events: list[tuple[int, str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    connections: int = 0


class Load:
    """Submits tasks, `backlog` jobs ahead of the fleet, and watches how many have ended.

    A submission is sent again, to whichever replica, until one acknowledges it: the jobs'
    idempotency keys make that harmless.
    """

    def __init__(self, fleet: Fleet, group: str, tasks: Sequence[Task], *, backlog: int) -> None:
        self.tasks = tasks
        self.acknowledged: dict[str, Task] = {}
        """The tasks by their jobs' ids."""
        self.readings: list[Reading] = []
        self.finished = 0
        self._fleet = fleet
        self._group = group
        self._backlog = backlog
        self._progress = asyncio.Condition()
        self._left: Iterator[Task] = iter(tasks)
        self._taken = 0
        self._dice = random.Random(len(tasks))

    async def run(self) -> None:
        """Return when every task is acknowledged and has ended. Raises when nothing goes on."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(), name="watch")
            self._followers = group
            for _ in range(SUBMITTERS):
                group.create_task(self._submit_all(), name="submitter")

    async def reached(self, finished: int) -> None:
        """Return once that many jobs have ended."""
        async with self._progress:
            await self._progress.wait_for(lambda: self.finished >= finished)

    # ------------------------------------------------ submitting

    async def _submit_all(self) -> None:
        while batch := list(itertools.islice(self._left, self._dice.randint(1, MOST_AT_ONCE))):
            self._taken += len(batch)
            await self.reached(self._taken - self._backlog)
            answer = await self._until_answered(self._post, batch)
            for task, job_id in zip(batch, answer, strict=True):
                self.acknowledged[job_id] = task
                if task.stream and task.index % FOLLOWED_EVERY == 0:
                    self._followers.create_task(self._follow(job_id), name=f"reader of {job_id}")

    async def _post(self, url: str, batch: list[Task]) -> list[str] | None:
        jobs = [task.body for task in batch]
        if len(jobs) == 1:
            answer = await self._fleet.http.post(f"{url}/api/v1/jobs", json=jobs[0])
            if answer.status_code == 503:
                return None
            assert answer.status_code in {200, 201}, answer.text
            return [answer.json()["job_id"]]
        answer = await self._fleet.http.post(f"{url}/api/v1/jobs/batch", json={"jobs": jobs})
        if answer.status_code == 503:
            return None
        assert answer.status_code == 200, answer.text
        return [line["job_id"] for line in answer.json()["results"]]

    async def _until_answered(self, call: Any, *arguments: Any) -> Any:
        """Ask one replica after the other until one answers."""
        urls = self._fleet.urls
        self._dice.shuffle(urls)
        for url in itertools.cycle(urls):
            try:
                answer = await call(url, *arguments)
            except httpx2.TransportError:
                answer = None
            if answer is not None:
                return answer
            await asyncio.sleep(0.1)
        raise AssertionError("a cycle has no end")

    # ------------------------------------------------ watching

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        moved_at = clock()
        while self.finished < len(self.tasks):
            finished = await self._until_answered(self._count)
            if finished > self.finished:
                moved_at = clock()
                async with self._progress:
                    self.finished = finished
                    self._progress.notify_all()
            stuck = clock() - moved_at > PATIENCE_SECONDS
            assert not stuck, f"{self.finished} of {len(self.tasks)} jobs ended, then no more"
            await asyncio.sleep(0.1)

    async def _count(self, url: str) -> int | None:
        path = f"/api/v1/groups/{self._group}/results?limit=1&wait_seconds=0"
        answer = await self._fleet.http.get(f"{url}{path}")
        return answer.json()["counts"]["finished"] if answer.status_code == 200 else None

    # ------------------------------------------------ following

    async def _follow(self, job_id: str) -> None:
        """Read a job's events to the end, coming back where a connection breaks."""
        reading = Reading(job_id)
        self.readings.append(reading)
        await self._until_answered(self._read_on, reading)

    async def _read_on(self, url: str, reading: Reading) -> bool | None:
        headers = {"Last-Event-ID": str(reading.events[-1][0])} if reading.events else {}
        pieces = self._dice.randint(5, 60)
        reading.connections += 1
        number, kind = -1, ""
        path = f"{url}/api/v1/jobs/{reading.job_id}/stream"
        async with self._fleet.http.stream("GET", path, headers=headers) as answer:
            if answer.status_code == 503:
                return None
            assert answer.status_code == 200, answer.status_code
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                match name:
                    case "id":
                        number = int(value)
                    case "event":
                        kind = value
                    case "data" if kind == "end":
                        reading.end = json.loads(value)
                        return True
                    case "data":
                        reading.events.append((number, kind, json.loads(value)))
                        pieces -= 1
                if pieces <= 0:
                    return None  # as somebody whose train enters a tunnel
        return None
