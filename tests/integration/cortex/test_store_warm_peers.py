"""The behaviour of every store, part 8: jobs left for a worker that has their model loaded."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from cortex_tools import StoreTools

from mnemos.cortex.records import (
    Claimed,
    ClaimRequest,
    DesiredState,
    HeartbeatRecord,
    LoadedModel,
    ModelKey,
)

TINY = ModelKey("tiny", "1", "transformers")


async def ask(tools: StoreTools, worker_id: str, max_jobs: int = 1, **changes: Any) -> Claimed:
    request = ClaimRequest(worker_id=worker_id, max_jobs=max_jobs, **changes)
    return await tools.store.claim(request)


def ids(claimed: Claimed) -> list[str]:
    return [one.job.job_id for one in claimed.jobs]


async def warm_and_cold(
    tools: StoreTools, load_seconds: float = 60.0, **registration: Any
) -> tuple[LoadedModel, ...]:
    """Register wrk_warm, which says that it has the model, and wrk_cold."""
    models = (LoadedModel(TINY, load_seconds=load_seconds),)
    await tools.register("wrk_warm", **registration)
    await ask(tools, "wrk_warm", models=models)
    await tools.register("wrk_cold")
    return models


async def test_a_job_is_left_for_the_warm_worker(tools: StoreTools) -> None:
    models = await warm_and_cold(tools)
    job_id = await tools.submit()
    cold = await ask(tools, "wrk_cold")
    assert (ids(cold), cold.again_in_seconds) == ([], 5.0)
    assert ids(await ask(tools, "wrk_warm", models=models)) == [job_id]


@pytest.mark.parametrize(("load_seconds", "bound"), [(60.0, 5.0), (2.0, 2.0)])
async def test_anyone_may_take_it_when_the_time_is_over(
    tools: StoreTools, load_seconds: float, bound: float
) -> None:
    await warm_and_cold(tools, load_seconds)
    job_id = await tools.submit()
    tools.clock.turn(bound - 0.5)
    cold = await ask(tools, "wrk_cold")
    assert (ids(cold), cold.again_in_seconds) == ([], 0.5)
    tools.clock.turn(0.5)
    assert ids(await ask(tools, "wrk_cold")) == [job_id]


async def test_the_time_begins_when_a_back_off_is_over(tools: StoreTools) -> None:
    await warm_and_cold(tools)
    await tools.register("wrk_a")
    job_id = await tools.submit()
    tools.clock.turn(5)
    await tools.claim()
    await tools.store.release("wrk_a", [tools.handed_back(job_id, 1)])
    assert (await ask(tools, "wrk_cold")).again_in_seconds == 5.0


async def test_a_model_that_loads_at_once_is_not_waited_for(tools: StoreTools) -> None:
    await warm_and_cold(tools, load_seconds=0)
    job_id = await tools.submit()
    assert ids(await ask(tools, "wrk_cold")) == [job_id]


async def test_a_full_warm_worker_is_not_waited_for(tools: StoreTools) -> None:
    models = await warm_and_cold(tools, slots=2)
    submitted = [await tools.submit() for _ in range(3)]
    assert ids(await ask(tools, "wrk_warm", 2, models=models)) == submitted[:2]
    assert ids(await ask(tools, "wrk_cold")) == submitted[2:]


async def test_no_more_is_left_than_the_warm_workers_have_slots_for(tools: StoreTools) -> None:
    models = await warm_and_cold(tools, slots=2)
    submitted = [await tools.submit() for _ in range(6)]
    cold = await ask(tools, "wrk_cold", 3)
    assert (ids(cold), cold.again_in_seconds) == (submitted[2:5], 5.0)
    assert ids(await ask(tools, "wrk_warm", 2, models=models)) == submitted[:2]


async def test_a_lost_worker_is_not_waited_for(tools: StoreTools) -> None:
    await warm_and_cold(tools)
    tools.clock.turn(1000)
    await tools.store.reap()
    await tools.register("wrk_cold", instance="two")
    job_id = await tools.submit()
    assert ids(await ask(tools, "wrk_cold")) == [job_id]


@pytest.mark.parametrize("desired", [DesiredState.PAUSED, DesiredState.DRAINING])
async def test_a_worker_that_takes_nothing_is_not_waited_for(
    tools: StoreTools, desired: DesiredState
) -> None:
    await warm_and_cold(tools)
    await tools.store.direct_worker("wrk_warm", "any", desired, "")
    job_id = await tools.submit()
    assert ids(await ask(tools, "wrk_cold")) == [job_id]


@pytest.mark.parametrize("status", ["shutting_down", "error"])
async def test_a_worker_that_says_it_cannot_is_not_waited_for(
    tools: StoreTools, status: str
) -> None:
    await warm_and_cold(tools)
    models = (await tools.store.get_worker("wrk_warm")).models
    beat = HeartbeatRecord(
        worker_id="wrk_warm", status=status, status_reason="", resources=None, models=models
    )
    await tools.store.heartbeat(beat)
    job_id = await tools.submit()
    assert ids(await ask(tools, "wrk_cold")) == [job_id]


async def test_a_warm_worker_that_may_not_take_it_is_not_waited_for(tools: StoreTools) -> None:
    await warm_and_cold(tools)
    await tools.register("wrk_cold", tags={"zone": "b"})
    job_id = await tools.submit(tags={"zone": "b"})
    assert ids(await ask(tools, "wrk_cold")) == [job_id]


async def test_a_warm_worker_too_small_for_a_job_is_not_waited_for(tools: StoreTools) -> None:
    models = await warm_and_cold(tools)
    job_id = await tools.submit()
    await tools.register("wrk_a")
    tools.clock.turn(5)
    await tools.claim()
    release = tools.handed_back(job_id, 1, min_memory_mb=1000)
    await tools.store.release("wrk_a", [release])
    assert ids(await ask(tools, "wrk_cold", memory_available_mb=999)) == []
    await ask(tools, "wrk_warm", models=models, memory_available_mb=999)
    assert ids(await ask(tools, "wrk_cold", memory_available_mb=1000)) == [job_id]


async def test_a_worker_that_handed_a_job_back_has_no_claim_on_it(tools: StoreTools) -> None:
    models = await warm_and_cold(tools)
    job_id = await tools.submit()
    await ask(tools, "wrk_warm", models=models)
    await tools.store.release("wrk_warm", [tools.handed_back(job_id, 1)])
    assert ids(await ask(tools, "wrk_cold")) == [job_id]


async def test_a_model_that_was_unloaded_is_not_waited_for(tools: StoreTools) -> None:
    await warm_and_cold(tools)
    await ask(tools, "wrk_warm", models=())
    job_id = await tools.submit()
    assert ids(await ask(tools, "wrk_cold")) == [job_id]


async def test_two_warm_workers_do_not_wait_for_each_other(tools: StoreTools) -> None:
    models = await warm_and_cold(tools)
    await ask(tools, "wrk_cold", models=models)
    job_id = await tools.submit()
    assert ids(await ask(tools, "wrk_cold", models=models)) == [job_id]


async def test_meanwhile_the_cold_worker_takes_what_is_nobodys(tools: StoreTools) -> None:
    await warm_and_cold(tools)
    await tools.submit(priority=9)
    other = await tools.submit(family="other", priority=1)
    assert ids(await ask(tools, "wrk_cold", 5)) == [other]


async def test_what_a_worker_has_loaded_is_shown_at_once(tools: StoreTools) -> None:
    await tools.register("wrk_warm")
    loaded = LoadedModel(TINY, load_seconds=3.5, memory_mb=70, active_jobs=1)
    await ask(tools, "wrk_warm", models=(loaded,))
    assert (await tools.store.get_worker("wrk_warm")).models == (
        '[{"family": "tiny", "version": "1", "runtime": "transformers", "load_seconds": 3.5, '
        '"memory_mb": 70, "active_jobs": 1}]'
    )


async def test_a_claim_that_brings_no_news_leaves_the_heartbeats_numbers(
    tools: StoreTools,
) -> None:
    models = await warm_and_cold(tools)
    told = json.loads((await tools.store.get_worker("wrk_warm")).models)
    told[0]["active_jobs"] = 7
    beat = HeartbeatRecord(
        worker_id="wrk_warm",
        status="busy",
        status_reason="",
        resources=None,
        models=json.dumps(told),
    )
    await tools.store.heartbeat(beat)
    await ask(tools, "wrk_warm", models=models)
    assert json.loads((await tools.store.get_worker("wrk_warm")).models) == told


async def test_a_cold_claim_costs_the_same_whatever_waits(tools: StoreTools) -> None:
    await warm_and_cold(tools)

    async def seconds_of_ten_claims() -> float:
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(10):
                await ask(tools, "wrk_cold", 2)
            best = min(best, time.perf_counter() - start)
        return best

    await tools.store.submit([tools.new_job() for _ in range(200)])
    small = await seconds_of_ten_claims()
    for _ in range(20):
        await tools.store.submit([tools.new_job() for _ in range(1000)])
    assert await seconds_of_ten_claims() < 4 * small + 0.05
