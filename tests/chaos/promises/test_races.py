"""Cancel, completion and the end of the lease come at the same moment: one of them wins."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cortex_tools import LEASE, StoreTools, TurnableClock
from figures import Figures, Scale
from live_cortex import LiveCortex, live_cortex, text_job
from postgres_tools import Postgres
from sim_worker import Ref, SimWorker
from store_chaos import check_books, check_log

from mnemos.cortex.errors import ConflictError
from mnemos.cortex.notifier import LocalNotifier
from mnemos.cortex.records import AttemptRecord, Fence, JobRecord, Report
from mnemos.cortex.sql.postgres.store import PostgresStore
from mnemos.cortex.sql.sqlite_store import SqliteStore
from mnemos.cortex.state_machine import JobState
from mnemos.protocol.v1 import cortex_pb2 as pb

pytestmark = pytest.mark.timeout(900)

RACES_AT_ONCE = 64
LEAST_SHARE = 0.01
"""Of each kind of winner: fewer would mean that one party always came too late."""
SPREADS_SECONDS = (0.0, 0.05, 0.4)
"""All in one commit, or in some that follow one another."""
ROUND_SECONDS = 30.0
WIRE_LEASE_SECONDS = 0.25
FIRST, SECOND = "by the first worker", "by the second worker"


@dataclass(slots=True)
class Race:
    """One job, and what each party was told about it."""

    job_id: str
    cancel_counts: bool = False
    first_accepted: bool = False
    second_accepted: bool = False

    def winner(self, status: str, result: object, outcomes: Sequence[str | None]) -> str:
        """Say who won; fail when the job's end is not what somebody was told."""
        assert None not in outcomes, f"{self}: an attempt has no end: {outcomes}"
        match status:
            case "completed":
                assert not self.cancel_counts, f"{self}: cancelled, and completed all the same"
                assert self.first_accepted != self.second_accepted, f"{self}: not one winner"
                assert outcomes.count("completed") == 1, f"{self}: {outcomes}"
                assert result == (FIRST if self.first_accepted else SECOND), f"{self}: {result}"
                return "completion" if self.first_accepted else "completion after expiry"
            case "cancelled":
                assert self.cancel_counts, f"{self}: cancelled by nobody"
                assert "completed" not in outcomes, f"{self}: {outcomes}"
                assert result is None, f"{self}: {result}"
                return "cancel"
            case "failed":
                told = self.cancel_counts, self.first_accepted, self.second_accepted
                assert not any(told), f"{self}: failed, and somebody was told otherwise"
                assert outcomes == ["lost"], f"{self}: {outcomes}"
                return "expiry"
        raise AssertionError(f"{self}: it has not ended: {status}")


# ---------------------------------------------------------------- stores


class StoreRaces:
    """Races at one or two stores of the same database, many at once, through their writers."""

    def __init__(self, stores: Sequence[StoreTools], clock: TurnableClock, seed: int) -> None:
        self._stores = stores
        self._clock = clock
        self._random = random.Random(seed)
        self.winners: Counter[str] = Counter()

    async def run_round(self) -> None:
        """Start many races, run all parties at the same moment, and look who won."""
        races = await self._start()
        parties = [self._party(race, deed) for race in races for deed in (self._cancel, self._end)]
        parties += [self._expire] + [lambda: self._take_over(races)] * 2
        self._random.shuffle(parties)
        spread = self._random.choice(SPREADS_SECONDS)
        async with asyncio.timeout(ROUND_SECONDS), asyncio.TaskGroup() as group:
            for party in parties:
                group.create_task(_after(self._random.uniform(0, spread), party))
        await self._take_over(races)
        for race in races:
            await self._judge(race)

    async def _start(self) -> list[Race]:
        """Let the first worker hold many jobs whose leases are just over."""
        tools = self._stores[0]
        jobs = [tools.new_job(retry_config=self._policy()) for _ in range(RACES_AT_ONCE)]
        await tools.store.submit(jobs)
        leased = await tools.claim("wrk_a", max_jobs=RACES_AT_ONCE)
        assert len(leased) == RACES_AT_ONCE
        self._clock.turn(LEASE)
        return [Race(one.job.job_id) for one in leased]

    def _policy(self) -> str:
        policy = {
            "max_retries": self._random.randint(0, 1),
            "initial_backoff_seconds": 0.0,
            "max_backoff_seconds": 0.0,
            "retryable_codes": [],
        }
        return json.dumps(policy)

    def _party(
        self, race: Race, deed: Callable[[Race], Awaitable[None]]
    ) -> Callable[[], Awaitable[None]]:
        return lambda: deed(race)

    def _any(self) -> StoreTools:
        return self._random.choice(self._stores)

    async def _cancel(self, race: Race) -> None:
        try:
            await self._any().store.cancel_job(race.job_id)
        except ConflictError:
            return
        race.cancel_counts = True

    async def _end(self, race: Race) -> None:
        verdict = await self._report("wrk_a", race.job_id, 1, FIRST)
        # A cancelled job's attempt may well end as its worker says: the job is cancelled.
        race.first_accepted = verdict is Fence.ACCEPTED

    async def _report(self, worker_id: str, job_id: str, attempt: int, result: str) -> Fence:
        told = Report(
            job_id=job_id, attempt=attempt, status=JobState.COMPLETED, result=json.dumps(result)
        )
        [verdict] = await self._any().store.report(worker_id, [told])
        assert verdict.verdict in (Fence.ACCEPTED, Fence.STALE)
        return verdict.verdict

    async def _expire(self) -> None:
        await self._any().store.reap()

    async def _take_over(self, races: Sequence[Race]) -> None:
        """Take what comes back to the queue, and end it."""
        await self._expire()
        by_id = {race.job_id: race for race in races}
        while leased := await self._any().claim("wrk_b", max_jobs=8):
            for one in leased:
                job_id = one.job.job_id
                verdict = await self._report("wrk_b", job_id, one.job.attempt, SECOND)
                by_id[job_id].second_accepted = verdict is Fence.ACCEPTED

    async def _judge(self, race: Race) -> None:
        tools = self._any()
        job: JobRecord = await tools.store.get_job(race.job_id)
        attempts: list[AttemptRecord] = await tools.store.get_attempts(race.job_id)
        result = json.loads(job.result) if job.result is not None else None
        outcomes = [one.outcome for one in attempts]
        self.winners[race.winner(job.status.value, result, outcomes)] += 1
        await check_log(tools, race.job_id)


async def _after(seconds: float, party: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(seconds)
    await party()


def note(figures: Figures, winners: Counter[str], planned: int) -> None:
    figures.note("races", winners.total())
    figures.note("won by", ", ".join(f"{who} {count}" for who, count in winners.most_common()))
    assert winners.total() >= planned
    parties = {"completion", "cancel", "expiry", "completion after expiry"}
    assert {who for who, n in winners.items() if n >= LEAST_SHARE * planned} == parties


@pytest.mark.parametrize("kind_of_store", ["sqlite", "postgres"])
async def test_races_at_the_store(
    kind_of_store: str, tmp_path: Path, postgres: Postgres, scale: Scale, figures: Figures
) -> None:
    planned = scale.of(5760, 960)
    clock, notifier = TurnableClock(), LocalNotifier()
    common: dict[str, Any] = {"lease_seconds": LEASE, "clock": clock}
    async with AsyncExitStack() as stack:
        tools = []
        if kind_of_store == "sqlite":
            store = SqliteStore(tmp_path, notifier, **common)
            tools.append(StoreTools(await stack.enter_async_context(store), clock, notifier))
        else:
            url = stack.enter_context(postgres.database())
            for _ in range(2):
                replica = PostgresStore(url, notifier, **common)
                opened = await stack.enter_async_context(replica)
                tools.append(StoreTools(opened, clock, notifier))
        for worker_id in ("wrk_a", "wrk_b"):
            await tools[0].register(worker_id, slots=RACES_AT_ONCE)
        races = StoreRaces(tools, clock, seed=planned)
        for _ in range(planned // RACES_AT_ONCE):
            await races.run_round()
        await check_books(tools[0])
    note(figures, races.winners, planned)


# ---------------------------------------------------------------- HTTP and gRPC


class WireRaces:
    """Races at a running CORTEX: submitters over HTTP, workers over gRPC, its own reaper."""

    def __init__(self, cortex: LiveCortex, first: SimWorker, second: SimWorker, seed: int) -> None:
        self._cortex = cortex
        self._first = first
        self._second = second
        self._random = random.Random(seed)
        self.winners: Counter[str] = Counter()

    async def run_round(self) -> None:
        """Start some races, have every party act when the leases end, and look who won."""
        bodies = [self._body() for _ in range(RACES_AT_ONCE)]
        races = {job_id: Race(job_id) for job_id in await self._cortex.submit(bodies)}
        held = 0
        while held < RACES_AT_ONCE:
            held += len(await self._first.acquire(RACES_AT_ONCE - held))
        async with asyncio.timeout(ROUND_SECONDS), asyncio.TaskGroup() as group:
            for race in races.values():
                group.create_task(self._cancel(race))
                group.create_task(self._end(race))
            for _ in range(4):
                group.create_task(self._second_worker(races))
        async with asyncio.timeout(ROUND_SECONDS):
            for race in races.values():
                await self._judge(race)

    def _body(self) -> dict[str, Any]:
        retry = {"max_retries": self._random.randint(0, 1), "initial_backoff_seconds": 0}
        return text_job(retry_config=retry)

    async def _until_about_expiry(self) -> None:
        """Sleep about as long as the lease and the reaper's next round take."""
        share = self._random.uniform(0.7, 1.5)
        await asyncio.sleep(WIRE_LEASE_SECONDS * share)

    async def _cancel(self, race: Race) -> None:
        await self._until_about_expiry()
        answer = await self._cortex.http.delete(f"/api/v1/jobs/{race.job_id}")
        assert answer.status_code in (200, 409), answer.text
        race.cancel_counts = answer.status_code == 200

    async def _end(self, race: Race) -> None:
        await self._until_about_expiry()
        verdict = await self._first.report(Ref(race.job_id, 1), FIRST)
        race.first_accepted = verdict == pb.VERDICT_ACCEPTED

    async def _second_worker(self, races: dict[str, Race]) -> None:
        """Take what comes back to the queue, and end it, until nothing does."""
        await asyncio.sleep(WIRE_LEASE_SECONDS * 0.9)
        while leased := await self._second.acquire(4, 2 * WIRE_LEASE_SECONDS):
            for one in leased:
                verdict = await self._second.report(Ref.of(one), SECOND)
                races[one.job.job_id].second_accepted = verdict == pb.VERDICT_ACCEPTED

    async def _judge(self, race: Race) -> None:
        """Judge a race when its job has ended, which its last lease may still delay."""
        await self._cortex.whole_stream(race.job_id)
        job = await self._cortex.job(race.job_id)
        outcomes = [one["outcome"] for one in job["attempts"]]
        self.winners[race.winner(job["status"], job["result"], outcomes)] += 1


async def test_races_over_the_wire(tmp_path: Path, scale: Scale, figures: Figures) -> None:
    planned = scale.of(1280, 128)
    async with (
        live_cortex(tmp_path, lease_seconds=WIRE_LEASE_SECONDS) as cortex,
        SimWorker(cortex.grpc_address, slots=RACES_AT_ONCE) as first,
        SimWorker(cortex.grpc_address, slots=RACES_AT_ONCE) as second,
    ):
        races = WireRaces(cortex, first, second, seed=planned)
        for _ in range(planned // RACES_AT_ONCE):
            await races.run_round()
    note(figures, races.winners, planned)
