"""A worker whose job went to somebody else changes nothing any more, and is told so."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, Way
from figures import Figures, Scale
from live_cortex import LiveCortex, live_cortex, text_job
from postgres_tools import Postgres
from sim_worker import Ref, SimWorker, Verdict, chunk

from mnemos.protocol.v1 import cortex_pb2 as pb

pytestmark = pytest.mark.timeout(900)

LEASE_SECONDS = 0.5
SQUAD = 20
"""Zombies behind one proxy: they are held, and let go, together."""
SQUADS_AT_ONCE = 3
PATIENCE_SECONDS = 10.0
KINDS = ("report", "chunks", "renewal", "status", "release")
BEGUN = (pb.VERDICT_ACCEPTED, pb.VERDICT_DUPLICATE)
NO_REF = Ref("", 0)
LIE = "by a zombie"
TRUTH = "by the holder"


@dataclass
class Count:
    """What was done and told, over all squads."""

    forced: Counter[str] = field(default_factory=Counter)
    told: Counter[Verdict] = field(default_factory=Counter)
    let_go: Counter[str] = field(default_factory=Counter)
    taken_from_holder: int = 0


@dataclass
class Zombie:
    """A worker that holds one job, and says one thing about it too late."""

    worker: SimWorker
    kind: str
    ref: Ref = NO_REF

    async def begin(self) -> None:
        """Take a job and stream a little of it, like any worker."""
        while True:
            for leased in await self.worker.acquire():
                self.ref = Ref.of(leased)
                if await self._stream_a_little():
                    return

    async def _stream_a_little(self) -> bool:
        """Say whether it got so far before its lease was over."""
        if (await self.worker.renew([self.ref]))[self.ref] not in BEGUN:
            return False
        if await self.worker.say_executing(self.ref) not in BEGUN:
            return False
        stream = self.worker.open_stream()
        ack = await stream.send([chunk(self.ref, 0, "early ", [1])])
        stream.close()
        return ack.verdict == pb.VERDICT_ACCEPTED

    async def speak(self) -> Verdict:
        """Say it; return how it was judged."""
        match self.kind:
            case "report":
                return await self.worker.report(self.ref, LIE)
            case "renewal":
                return (await self.worker.renew([self.ref]))[self.ref]
            case "status":
                return await self.worker.say_executing(self.ref, LIE)
            case "release":
                return await self.worker.release(self.ref, LIE)
            case _:
                stream = self.worker.open_stream()
                ack = await stream.send([chunk(self.ref, 1, LIE, [2])])
                stream.close()
                return ack.verdict


class Holder:
    """The worker that is given the zombies' jobs, and ends them."""

    def __init__(self, worker: SimWorker, count: int) -> None:
        self._worker = worker
        self.left = count
        self._refs: dict[str, Ref] = {}

    async def take_all(self) -> None:
        """Return when every job runs here."""
        while len(self._refs) < self.left:
            for leased in await self._worker.acquire(self.left, LEASE_SECONDS / 4):
                self._refs[leased.job.job_id] = Ref.of(leased)
            if self._refs:
                verdicts = await self._worker.renew(self._refs.values())
                self._refs = {r.job_id: r for r, told in verdicts.items() if told in BEGUN}

    async def end_all(self) -> None:
        """Complete them; one whose lease ran out meanwhile is taken again.

        `left` says how many were out of reach, which none is but by a zombie's deed.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while self.left:
                    await self.take_all()
                    await self._complete()
        except TimeoutError:
            return

    async def _complete(self) -> None:
        for ref in list(self._refs.values()):
            if await self._worker.report(ref, TRUTH) == pb.VERDICT_ACCEPTED:
                self.left -= 1
            del self._refs[ref.job_id]


@asynccontextmanager
async def squad_of_zombies(
    cortex: LiveCortex, proxy: FaultProxy, tags: dict[str, str]
) -> AsyncIterator[list[Zombie]]:
    kinds = cycle(KINDS)
    async with AsyncExitStack() as stack:
        zombies = [
            Zombie(
                await stack.enter_async_context(SimWorker(proxy.address, tags=tags)), next(kinds)
            )
            for _ in range(SQUAD)
        ]
        body = text_job(requirements={"tags": tags})
        await cortex.submit([body] * SQUAD)
        async with asyncio.TaskGroup() as group:
            for zombie in zombies:
                group.create_task(zombie.begin())
        yield zombies


async def all_pending(cortex: LiveCortex, job_ids: list[str]) -> None:
    """Return when every job waits for yet another worker."""
    for job_id in job_ids:
        while (await cortex.job(job_id))["status"] != "pending":  # noqa: ASYNC110 - from outside
            await asyncio.sleep(LEASE_SECONDS / 10)


async def run_squad(cortex: LiveCortex, number: int, count: Count) -> list[str]:
    """Make a squad, let its jobs go to another worker, then let it speak; return its jobs."""
    tags = {"squad": str(number)}
    async with (
        FaultProxy("127.0.0.1", cortex.grpc_port) as proxy,
        squad_of_zombies(cortex, proxy, tags) as zombies,
        SimWorker(cortex.grpc_address, slots=SQUAD, tags=tags) as other,
    ):
        proxy.hold(Way.UP)
        holder = Holder(other, SQUAD)
        async with asyncio.TaskGroup() as group:
            told = [group.create_task(zombie.speak()) for zombie in zombies]
            await holder.take_all()
            assert proxy.holding == SQUAD, "a zombie spoke before its time"
            match number % 3:
                case 0:
                    count.let_go["while the other runs"] += SQUAD
                case 1:
                    await holder.end_all()
                    count.let_go["when it has ended"] += SQUAD
                case _:
                    await all_pending(cortex, [zombie.ref.job_id for zombie in zombies])
                    count.let_go["when it was lost too"] += SQUAD
            proxy.release()
        await holder.end_all()
        count.taken_from_holder += holder.left
        count.forced.update(zombie.kind for zombie in zombies)
        count.told.update(task.result() for task in told)
        return [zombie.ref.job_id for zombie in zombies]


async def is_untouched(cortex: LiveCortex, job_id: str) -> bool:
    """Whether nothing that a zombie said is seen in a job or in its log."""
    job = await cortex.job(job_id)
    outcomes = [one["outcome"] for one in job["attempts"]]
    return (
        (job["status"], job["result"]) == ("completed", TRUTH)
        and (outcomes[0], outcomes[-1]) == ("lost", "completed")
        and outcomes.count("completed") == 1
        and LIE not in await cortex.whole_stream(job_id)
    )


@pytest.mark.parametrize("kind_of_store", ["sqlite", "postgres"])
async def test_zombies(
    kind_of_store: str, tmp_path: Path, postgres: Postgres, scale: Scale, figures: Figures
) -> None:
    planned = scale.of(1000, 100)
    count = Count()
    touched: list[str] = []
    turn = asyncio.Semaphore(SQUADS_AT_ONCE)

    async def run(cortex: LiveCortex, number: int) -> None:
        async with turn:
            jobs = await run_squad(cortex, number, count)
            touched.extend([job_id for job_id in jobs if not await is_untouched(cortex, job_id)])

    async with AsyncExitStack() as stack:
        settings: dict[str, object] = {"lease_seconds": LEASE_SECONDS}
        if kind_of_store == "postgres":
            settings["database_url"] = stack.enter_context(postgres.database())
        cortex = await stack.enter_async_context(live_cortex(tmp_path, **settings))
        async with asyncio.TaskGroup() as group:
            for number in range(planned // SQUAD):
                group.create_task(run(cortex, number))

    figures.note("zombies forced", count.forced.total())
    figures.note("by call", ", ".join(f"{k} {n}" for k, n in sorted(count.forced.items())))
    figures.note("let go", ", ".join(f"{when} {n}" for when, n in count.let_go.items()))
    figures.note("told STALE", count.told[pb.VERDICT_STALE])
    figures.note("accepted", count.forced.total() - count.told[pb.VERDICT_STALE])
    figures.note("jobs touched", len(touched))
    figures.note("jobs lost to their holder", count.taken_from_holder)
    assert count.forced == {kind: planned // len(KINDS) for kind in KINDS}, "not all were forced"
    assert len(count.let_go) == 3
    assert count.told == {pb.VERDICT_STALE: planned}
    assert not touched
    assert not count.taken_from_holder
