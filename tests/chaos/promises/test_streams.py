"""Streams that are cut again and again are read whole: no gap, nothing twice, nothing spliced."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fault_proxy import FaultProxy
from figures import Figures, Scale
from live_cortex import LiveCortex, live_cortex, text_job
from postgres_tools import Postgres
from sim_streamer import Deeds, Fault, Streamer, tokens
from sim_worker import Ref
from sse_reader import Log, RestlessReader

pytestmark = pytest.mark.timeout(1800)

LEASE_SECONDS = 1.0
WORKERS = 40
JOBS_AT_ONCE = 60
"""More than workers, so that a lost job finds one soon and none is idle."""
GUIDED = {"regex": ".*"}
"""An answer that cannot be taken up in the middle: it starts over."""
LEAST_SHARE = 0.1


@dataclass
class Found:
    """What the logs showed."""

    wrong: list[str] = field(default_factory=list)
    streams: int = 0
    went_on: int = 0
    restarts: int = 0
    comebacks: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


def read_text(log: Log, resumed: dict[Ref, str]) -> tuple[str, int, int]:
    """Return a log's text, how often it went on in another attempt, and its restarts.

    Fails where two attempts are spliced, where a token lacks or comes twice, and where an attempt
    was told to go on from another text than readers have.
    """
    text = ""
    place = writer = holder = went_on = restarts = 0
    for event in log.events:
        attempt = event.data["attempt"]
        match event.kind:
            case "state":
                if event.data["status"] == "acquired":
                    assert attempt == holder + 1, "attempts are counted one by one"
                    holder = attempt
                    assert resumed.get(Ref(log.job["job_id"], attempt), text) == text
            case "restart":
                assert attempt == holder + 1
                text, place, writer = "", 0, attempt
                restarts += 1
            case "token":
                assert attempt == holder, f"attempt {attempt} wrote while {holder} held the job"
                went_on += bool(text) and attempt != writer
                end = place + len(event.data["token_ids"])
                assert event.data["token_ids"] == list(range(place, end))
                assert event.data["content"] == tokens(attempt, place, end)
                text, place, writer = text + event.data["content"], end, attempt
    return text, went_on, restarts


async def follow(
    replicas: list[LiveCortex], number: int, deeds: Deeds, found: Found, length: int
) -> None:
    """Submit one job, read it along, and compare what was read with what there is."""
    cortex = replicas[number % len(replicas)]
    guided = number % 4 == 0
    [job_id] = await cortex.submit([text_job(parameters=GUIDED if guided else {})])
    https = [replica.http for replica in replicas]
    reader = RestlessReader(https, job_id, random.Random(number))
    await reader.read_to_end()
    found.comebacks += reader.comebacks
    found.streams += 1
    try:
        assert reader.text == await cortex.whole_stream(job_id), "a reader has another text"
        log = Log.of(reader.text)
        text, went_on, restarts = read_text(log, deeds.resumed)
        assert (log.job["status"], log.job["result"]) == ("completed", text)
        assert len(text.split()) == length
        assert not restarts if not guided else not went_on
    except AssertionError as error:
        found.wrong.append(f"{job_id}: {error}")
        return
    found.went_on += went_on
    found.restarts += restarts
    job = await cortex.job(job_id)
    found.outcomes.update(attempt["outcome"] for attempt in job["attempts"])


def note(figures: Figures, deeds: Deeds, found: Found) -> None:
    figures.note("streams", found.streams)
    figures.note("cut at least once", len(deeds.faults))
    for fault in Fault:
        figures.note(f"{fault}s", deeds.total(fault))
    figures.note("chunks sent twice", deeds.repeated)
    figures.note("messages out of order", deeds.reordered)
    figures.note("told STALE", deeds.stale)
    figures.note("went on in another attempt", found.went_on)
    figures.note("started over", found.restarts)
    figures.note("readers came back", found.comebacks)
    figures.note("wrong", len(found.wrong) + len(deeds.wrong))


@asynccontextmanager
async def running_replicas(
    kind_of_store: str, folder: Path, postgres: Postgres
) -> AsyncIterator[list[LiveCortex]]:
    """One CORTEX on a file, or two on a database."""
    if kind_of_store == "sqlite":
        async with live_cortex(folder, lease_seconds=LEASE_SECONDS) as cortex:
            yield [cortex]
        return
    for name in ("first", "second"):
        (folder / name).mkdir()
    with postgres.database() as url:
        shared: dict[str, object] = {"lease_seconds": LEASE_SECONDS, "database_url": url}
        async with (
            live_cortex(folder / "first", **shared) as first,
            live_cortex(folder / "second", **shared) as second,
        ):
            yield [first, second]


@pytest.mark.parametrize("kind_of_store", ["sqlite", "postgres"])
async def test_streams(
    kind_of_store: str, tmp_path: Path, postgres: Postgres, scale: Scale, figures: Figures
) -> None:
    planned, length = scale.of(1000, 150), scale.of(100, 40)
    deeds, found = Deeds(), Found()
    room = asyncio.Semaphore(JOBS_AT_ONCE)

    async def one(replicas: list[LiveCortex], number: int) -> None:
        async with room:
            await follow(replicas, number, deeds, found, length)

    async with AsyncExitStack() as stack:
        replicas = await stack.enter_async_context(
            running_replicas(kind_of_store, tmp_path, postgres)
        )
        async with asyncio.TaskGroup() as group:
            workers = []
            for number in range(WORKERS):
                cortex = replicas[number % len(replicas)]
                proxy = FaultProxy("127.0.0.1", cortex.grpc_port)
                await stack.enter_async_context(proxy)
                chance = random.Random(-number)
                streamer = Streamer(cortex, proxy, deeds, length, LEASE_SECONDS, chance)
                workers.append(group.create_task(streamer.run()))
            async with asyncio.TaskGroup() as following:
                for number in range(planned):
                    following.create_task(one(replicas, number))
            for worker in workers:
                worker.cancel()

    note(figures, deeds, found)
    assert not found.wrong + deeds.wrong, (found.wrong + deeds.wrong)[:5]
    assert found.streams == len(deeds.faults) == planned, "a stream was never cut"
    assert min(deeds.total(fault) for fault in Fault) >= LEAST_SHARE * planned
    shown = (found.went_on, found.restarts, found.comebacks, deeds.stale, deeds.reordered)
    assert min(shown) >= LEAST_SHARE * planned / 4
    assert found.outcomes["completed"] == planned
