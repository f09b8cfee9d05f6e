"""Which models a worker is told to fetch ahead: of jobs that wait, that it could run and lacks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from cortex_tools import Cortex, StoreTools

from mnemos.cortex.prefetching import (
    LOOK_AGAIN_SECONDS,
    MOST_HINTS,
    TOLD_SECONDS,
    PrefetchAdvisor,
)
from mnemos.cortex.records import (
    MOST_COUNTED,
    DesiredState,
    LoadedModel,
    Model,
    ModelKey,
    WaitingLane,
)
from mnemos.cortex.sql.choosing import WARM_MAY_OVERTAKE_SECONDS
from mnemos.protocol.v1 import cortex_pb2 as pb


class Advice:
    """An advisor on a store, whose seconds pass as the test says."""

    def __init__(self, tools: StoreTools) -> None:
        self.now = 0.0
        self.looks = 0
        self._store = tools.store
        self.advisor = PrefetchAdvisor(self, clock=lambda: self.now)

    async def waiting_lanes(self) -> list[WaitingLane]:
        self.looks += 1
        return await self._store.waiting_lanes()

    async def get_worker(self, worker_id: str) -> Any:
        return await self._store.get_worker(worker_id)

    async def ask(self, worker_id: str = "wrk_a", *has: str) -> list[str]:
        """The names of the models that a worker is told of, asked a little later."""
        self.now += LOOK_AGAIN_SECONDS
        models = await self.advisor.models_for(worker_id, {Model(name, "1") for name in has})
        return [model.family for model in models]


@pytest.fixture
def advice(tools: StoreTools) -> Advice:
    return Advice(tools)


async def test_lanes_say_what_waits_and_what_is_claimed_waits_no_more(tools: StoreTools) -> None:
    await tools.register()
    for priority in (3, 8):
        await tools.submit(family="a", priority=priority, min_memory_mb=7, tags={"zone": "eu"})
    await tools.submit(family="b")
    first, second = await tools.store.waiting_lanes()

    assert (first.model, first.jobs, first.priority) == (ModelKey("a", "1", "transformers"), 2, 8)
    assert (first.min_memory_mb, json.loads(first.tags)) == (7, {"zone": "eu"})
    assert second.model.family == "b"
    await tools.claim()
    assert [lane.model.family for lane in await tools.store.waiting_lanes()] == ["a"]


async def test_many_jobs_are_not_all_counted(tools: StoreTools) -> None:
    await tools.store.submit([tools.new_job() for _ in range(3 * MOST_COUNTED)])
    [lane] = await tools.store.waiting_lanes()
    assert lane.jobs == MOST_COUNTED


async def test_the_most_urgent_come_first_and_what_the_worker_has_does_not(
    tools: StoreTools, advice: Advice
) -> None:
    await tools.register()
    assert await advice.ask() == []
    for number in range(MOST_HINTS + 2):
        await tools.submit(family=f"m{number}", priority=4)
    await tools.submit(family="urgent", priority=9)

    assert await advice.ask() == ["urgent", "m0", "m1", "m2"]
    assert await advice.ask("wrk_a", "urgent", "m1") == ["m0", "m2", "m3", "m4"]


async def test_a_worker_hears_only_of_what_it_could_run(tools: StoreTools, advice: Advice) -> None:
    await tools.register(runtimes=("transformers", "echo"), tags={"zone": "us"})
    await tools.submit(family="other-runtime", runtime="vllm")
    await tools.submit(family="no-files", runtime="echo")
    await tools.submit(family="other-zone", tags={"zone": "eu"})
    await tools.submit(family="other-type", job_type="evaluation")
    await tools.submit(family="too-big", min_memory_mb=900)
    await tools.submit(family="fits", min_memory_mb=500, tags={"zone": "us"})
    assert await advice.ask() == [], "it has not said yet what it offers"
    await tools.claim(max_jobs=0, memory_available_mb=800)
    assert await advice.ask() == ["fits"]

    await tools.store.direct_worker("wrk_a", "pause", DesiredState.PAUSED, "")
    assert await advice.ask() == []


async def test_no_more_workers_fetch_a_model_than_jobs_wait_for_it(
    tools: StoreTools, advice: Advice
) -> None:
    workers = [await tools.register(f"wrk_{letter}") for letter in "abc"]
    await tools.submit(family="a")
    await tools.submit(family="a")

    for _ in range(2):
        assert [await advice.ask(who) for who in workers] == [["a"], ["a"], []]
    advice.now += TOLD_SECONDS
    assert await advice.ask("wrk_c") == ["a"], "the others may be gone by now"
    await tools.store.submit([tools.new_job(family="a") for _ in range(MOST_COUNTED)])
    assert [await advice.ask(who) for who in workers] == [["a"], ["a"], ["a"]]


async def test_many_who_ask_cost_one_look(tools: StoreTools, advice: Advice) -> None:
    await tools.register()
    await tools.submit(family="a")
    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(advice.advisor.models_for("wrk_a", set()))
    assert advice.looks == 1


async def test_what_lies_on_the_disk_goes_behind_what_is_loaded_and_before_the_rest(
    tools: StoreTools,
) -> None:
    await tools.register()
    for family in ("cold", "on-disk", "loaded"):
        await tools.submit(family=family)
        tools.clock.turn(0.5)
    loaded = [LoadedModel(ModelKey("loaded", "1", "transformers"))]
    has: dict[str, Any] = {"models": loaded, "on_disk": {Model("on-disk", "1")}}
    given = [(await tools.claim(**has))[0].job.family for _ in range(3)]
    assert given == ["loaded", "on-disk", "cold"]

    await tools.submit(family="cold")
    tools.clock.turn(WARM_MAY_OVERTAKE_SECONDS)
    await tools.submit(family="on-disk")
    [first] = await tools.claim(**has)
    assert first.job.family == "cold", "nothing waits for ever"


async def test_a_worker_is_given_jobs_of_models_that_its_heartbeat_named(cortex: Cortex) -> None:
    worker_id = await cortex.register()
    for family in ("a", "b"):
        await cortex.submit(model={"family": family, "version": "1", "runtime": "transformers"})
    cached = [pb.CachedModel(family="b", version="1")]
    await cortex.stub.Heartbeat(
        pb.HeartbeatRequest(worker_id=worker_id, instance_id="one", cached_models=cached)
    )
    [leased] = await cortex.acquire()
    assert leased.job.model.family == "b"


async def test_a_heartbeat_is_answered_with_hints_where_they_are_wanted(cortex: Cortex) -> None:
    worker_id = await cortex.register()
    for family in ("a", "b", "c"):
        await cortex.submit(model={"family": family, "version": "1", "runtime": "transformers"})
    beat = pb.HeartbeatRequest(
        worker_id=worker_id,
        instance_id="one",
        models=[pb.LoadedModel(family="a", version="1", runtime="transformers")],
        cached_models=[pb.CachedModel(family="b", version="1")],
        wants_hints=True,
    )
    assert list((await cortex.stub.Heartbeat(beat)).prefetch) == [
        pb.ModelHint(family="c", version="1", runtime="transformers")
    ]
    beat.wants_hints = False
    assert not (await cortex.stub.Heartbeat(beat)).prefetch
