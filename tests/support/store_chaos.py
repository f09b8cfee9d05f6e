"""Random deeds of people and workers against stores, and the checks that all books balance."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter

from cortex_tools import StoreTools

from mnemos.cortex.errors import ConflictError
from mnemos.cortex.records import (
    AttemptRef,
    Chunk,
    Fence,
    FinishedRow,
    JobFilter,
    LoadedModel,
    ModelKey,
    Report,
    StatusUpdate,
)
from mnemos.cortex.state_machine import PHASES, TERMINAL, TRANSITIONS, JobState, Phase

WORKERS = ("wrk_a", "wrk_b", "wrk_c")


class Chaos:
    """Does random things to a store, as people and workers might."""

    def __init__(self, tools: StoreTools, seed: int) -> None:
        self.tools = tools
        self.random = random.Random(seed)
        self.jobs: list[str] = []
        self.refs: list[tuple[str, AttemptRef]] = []
        self.accepted: Counter[str] = Counter()

    async def step(self) -> None:
        """Do one thing."""
        deeds = (
            self.submit,
            self.claim,
            self.claim,
            self.report,
            self.report,
            self.progress,
            self.release,
            self.cancel,
            self.retry,
            self.pass_time,
            self.restart_worker,
            self.break_stream,
        )
        await self.random.choice(deeds)()

    async def submit(self) -> None:
        new = self.tools.new_job(
            priority=self.random.randint(1, 10),
            family=self.random.choice("abc"),
            group=self.random.choice(["g", "h", None]),
            max_retries=self.random.randint(0, 2),
            timeout_seconds=self.random.choice([10, 300]),
            job_type=self.random.choice(["inference", "batch_inference"]),
            row_count=3,
        )
        await self.tools.store.submit([new])
        self.jobs.append(new.job_id)

    async def claim(self) -> None:
        worker_id = self.random.choice(WORKERS)
        loaded = self.random.sample("abc", self.random.randint(0, 2))
        leased = await self.tools.claim(
            worker_id,
            max_jobs=self.random.randint(1, 3),
            models=[LoadedModel(ModelKey(name, "1", "transformers"), 30) for name in loaded],
            memory_available_mb=self.random.choice([0, 100]),
        )
        for one in leased:
            indexes = [row.index for row in one.rows]
            assert indexes == sorted(set(indexes))
            assert set(indexes) <= set(range(3))
        refs = (AttemptRef(one.job.job_id, one.job.attempt) for one in leased)
        self.refs += [(worker_id, ref) for ref in refs]

    async def report(self) -> None:
        if not self.refs:
            return
        worker_id, ref = self.random.choice(self.refs)
        status = self.random.choice(sorted(TERMINAL))
        said = Report(
            job_id=ref.job_id,
            attempt=ref.attempt,
            status=status,
            result="1",
            error="no",
            error_code=self.random.choice(["internal", "engine_crashed"]),
            engine_jobs=self.random.randint(0, 2),
            retryable=self.random.random() < 0.7,
        )
        [verdict] = await self.tools.store.report(worker_id, [said])
        if verdict.verdict is Fence.ACCEPTED:
            self.accepted[f"{ref.job_id}/{ref.attempt}"] += 1

    async def progress(self) -> None:
        if not self.refs:
            return
        worker_id, ref = self.random.choice(self.refs)
        store = self.tools.store
        await store.renew(worker_id, [ref])
        status = self.random.choice([JobState.LOADING_MODEL, JobState.EXECUTING])
        await store.update_status(worker_id, [StatusUpdate(ref.job_id, ref.attempt, status)])
        number = self.random.randint(0, 2)
        row = FinishedRow(self.random.randint(0, 4), "{}")
        brought = self.random.choice([("t", [1], None), ("", [], row)])
        await store.append_chunks(worker_id, [Chunk(ref.job_id, ref.attempt, number, *brought)])

    async def release(self) -> None:
        if self.refs:
            worker_id, ref = self.random.choice(self.refs)
            needs = {"min_memory_mb": self.random.choice([0, 50, 100])}
            release = self.tools.handed_back(ref.job_id, ref.attempt, **needs)
            await self.tools.store.release(worker_id, [release])

    async def cancel(self) -> None:
        if self.random.random() < 0.1:
            await self.tools.store.cancel_group("h")
        elif self.jobs:
            await self._allowed(self.tools.store.cancel_job)

    async def retry(self) -> None:
        if self.jobs:
            await self._allowed(self.tools.store.retry_job)

    async def _allowed(self, call: object) -> None:
        try:
            await call(self.random.choice(self.jobs))  # type: ignore[operator]  # a store's method
        except ConflictError:
            return

    async def pass_time(self) -> None:
        self.tools.clock.turn(self.random.choice([0.3, 5, 20]))
        await self.tools.store.reap()
        await self.tools.store.promote_due()

    async def restart_worker(self) -> None:
        if self.random.random() < 0.3:
            instance = str(self.random.random())
            await self.tools.register(self.random.choice(WORKERS), instance=instance)

    async def break_stream(self) -> None:
        worker_id, watch_id = self.random.choice(WORKERS), str(self.random.random())
        store = self.tools.store
        instance = (await store.get_worker(worker_id)).instance_id
        await store.watch(worker_id, instance, watch_id)
        if self.random.random() < 0.3:
            await store.watch(worker_id, instance, f"after {watch_id}")
        await store.suspect([(worker_id, watch_id)], 3.0)


async def check_books(tools: StoreTools) -> None:
    jobs = await tools.store.list_jobs(JobFilter(limit=10_000))
    by_status = Counter(job.status.value for job in jobs)
    totals = await tools.store.totals()
    assert {name: count for name, count in totals.jobs.items() if count} == by_status
    numbers = await tools.store.queue_numbers()
    assert numbers.delayed == sum(job.delayed for job in jobs)
    lanes: Counter[tuple[str, int, Phase]] = Counter()
    for lane in numbers.lanes:
        lanes[lane.model.family, lane.priority, Phase.PENDING] += lane.pending
        lanes[lane.model.family, lane.priority, Phase.RUNNING] += lane.running
    unfinished = [job for job in jobs if job.status not in TERMINAL]
    counted = Counter((job.family, job.priority, PHASES[job.status]) for job in unfinished)
    assert +lanes == counted
    for group in ("g", "h"):
        counts = await tools.store.group_counts(group)
        members = [job for job in jobs if job.group == group]
        assert counts.total == len(members)
        assert counts.finished == sum(job.status in TERMINAL for job in members)


async def check_log(tools: StoreTools, job_id: str) -> None:
    """Its states follow the table; its numbers have no gaps; its attempts ended as they did."""
    events = (await tools.store.read_events(job_id, 0, 10_000)).events
    assert [event.sequence for event in events] == list(range(len(events)))
    states = [
        JobState(json.loads(event.data)["status"]) for event in events if event.kind == "state"
    ]
    assert states[0] is JobState.PENDING
    for source, target in itertools.pairwise(states):
        assert target in TRANSITIONS[source] or target is source
    job = await tools.store.get_job(job_id)
    assert states[-1] is job.status
    attempts = await tools.store.get_attempts(job_id)
    assert [one.attempt for one in attempts] == list(range(1, job.attempt + 1))
    open_attempts = [one for one in attempts if one.outcome is None]
    assert len(open_attempts) == (PHASES[job.status] is Phase.RUNNING)
    assert sum(one.outcome == "completed" for one in attempts) == (job.status is JobState.COMPLETED)
