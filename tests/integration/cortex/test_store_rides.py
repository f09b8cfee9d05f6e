"""The behaviour of every store, part 18: claims that ride along with the commit of a new job."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import Any

import pytest
from cortex_tools import StoreTools, eventually

from mnemos.cortex.notifier import runtime_topic
from mnemos.cortex.records import Claimed, ClaimRequest
from mnemos.cortex.sql.store import SqlStore
from mnemos.cortex.sql.writer import MOST_RIDDEN_WITH
from mnemos.cortex.state_machine import JobState

TOPICS = [runtime_topic("transformers")]

Ride = asyncio.Task[tuple[Claimed, float] | None]


def ride(
    tools: StoreTools, tasks: asyncio.TaskGroup, until: asyncio.Event, worker_id: str = "wrk_a"
) -> Ride:
    """A claim that waits for a job to ride along with, until it is told otherwise."""
    wanted = ClaimRequest(worker_id=worker_id, max_jobs=2, request_id=f"request_{worker_id}")
    return tasks.create_task(tools.store.claim_along(wanted, TOPICS, until.wait()))


def ids_of(came: tuple[Claimed, float] | None) -> list[str]:
    return [leased.job.job_id for leased in came[0].jobs] if came is not None else []


@pytest.fixture
def ended() -> asyncio.Event:
    """Set when nobody shall wait any more."""
    return asyncio.Event()


async def test_a_job_is_leased_in_the_commit_that_stores_it(
    tools: StoreTools, ended: asyncio.Event
) -> None:
    await tools.register()
    async with asyncio.TaskGroup() as tasks:
        riding = ride(tools, tasks, ended)
        await asyncio.sleep(0)
        job_id = await tools.submit()
        stored = await tools.store.get_job(job_id)
        ended.set()
    assert (stored.status, stored.worker_id) == (JobState.ACQUIRED, "wrk_a")
    assert ids_of(riding.result()) == [job_id]
    assert not await tools.claim("wrk_a"), "it is given away"


async def test_not_more_ride_along_than_there_are_jobs_and_none_with_very_many(
    tools: StoreTools, ended: asyncio.Event
) -> None:
    for worker_id in ("wrk_a", "wrk_b"):
        await tools.register(worker_id)
    async with asyncio.TaskGroup() as tasks:
        first, second = (ride(tools, tasks, ended, name) for name in ("wrk_a", "wrk_b"))
        await asyncio.sleep(0)
        many = [tools.new_job(runtime="vllm"), *(tools.new_job() for _ in range(MOST_RIDDEN_WITH))]
        stored = await tools.store.submit(many)
        for one in stored:
            await tools.store.cancel_job(one.job_id)
        job_id = await tools.submit()
        await tools.submit(runtime="vllm")
        ended.set()
    assert [ids_of(came.result()) for came in (first, second)] == [[job_id], []]
    assert second.result() is None, "it did not ride"


@pytest.mark.parametrize("is_durable", [False, True])
async def test_a_claim_whose_worker_is_gone_gives_back_what_it_was_given(
    tools: StoreTools, ended: asyncio.Event, monkeypatch: pytest.MonkeyPatch, is_durable: bool
) -> None:
    """Gone while the commit is under way, or after it, a moment before it is told."""
    store = tools.store
    assert isinstance(store, SqlStore)
    await tools.register()
    loop, gone, commit, notify = (
        *(asyncio.get_running_loop(), threading.Event()),
        *(store._engine.commit, tools.notifier.notify),
    )

    def leave() -> None:
        monkeypatch.undo()
        riding.cancel()
        gone.set()

    def during(*commits: Any) -> None:
        loop.call_soon_threadsafe(leave)
        assert gone.wait(10)
        commit(*commits)

    def after(topics: Iterable[str]) -> None:
        leave()
        notify(topics)

    async def is_free() -> bool:
        return (await store.get_job(job_id)).status is JobState.PENDING

    async with asyncio.TaskGroup() as tasks:
        riding = ride(tools, tasks, ended)
        await asyncio.sleep(0)
        if is_durable:
            monkeypatch.setattr(tools.notifier, "notify", after)
        else:
            monkeypatch.setattr(store._engine, "commit", during)
        job_id = await tools.submit()
    assert gone.is_set()
    await eventually(is_free, "the job waits again")
    assert (await store.get_job(job_id)).attempt == 1, "it had been leased"
    [leased] = await tools.claim()
    assert leased.job.job_id == job_id


async def test_after_a_commit_in_doubt_the_same_request_brings_the_job(
    tools: StoreTools, ended: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tools.store
    assert isinstance(store, SqlStore)
    await tools.register()
    commit = store._engine.commit

    def cut_off(*commits: Any) -> None:
        commit(*commits)
        monkeypatch.undo()
        raise RuntimeError("nobody knows")

    with tools.notifier.subscribe(*TOPICS) as ear:
        ear.clear()
        wanted = ClaimRequest(worker_id="wrk_a", max_jobs=2, request_id="request")
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            riding = tasks.create_task(store.claim_along(wanted, TOPICS, ear.wait(None)))
            await asyncio.sleep(0)
            monkeypatch.setattr(store._engine, "commit", cut_off)
            with pytest.raises(RuntimeError, match="nobody knows"):
                await tools.submit()
    assert riding.result() is None, "it is woken, and asks by itself"
    assert len((await store.claim(wanted)).jobs) == 1
