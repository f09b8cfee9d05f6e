"""The behaviour of every store, part 2: which jobs a worker is given."""

from __future__ import annotations

import asyncio
import time

import pytest
from cortex_tools import LEASE, StoreTools

from mnemos.cortex.errors import WorkerReplacedError, WorkerUnknownError
from mnemos.cortex.records import DesiredState, LeasedJob, LoadedModel, ModelKey
from mnemos.cortex.state_machine import JobState

WARM = (LoadedModel(ModelKey("warm", "1", "transformers")),)


def ids(leased: list[LeasedJob]) -> list[str]:
    return [one.job.job_id for one in leased]


async def test_a_claim_carries_the_attempt_the_lease_and_the_time_left(tools: StoreTools) -> None:
    await tools.register()
    job_id = await tools.submit(timeout_seconds=60)
    [leased] = await tools.claim()
    assert (leased.job.job_id, leased.job.attempt) == (job_id, 1)
    assert (leased.lease_seconds, leased.time_left_seconds) == (LEASE, 60)
    assert leased.job.input == '{"prompt":"Hello","parameters":{}}'
    job = await tools.store.get_job(job_id)
    assert (job.status, job.worker_id) == (JobState.ACQUIRED, "wrk_a")
    assert await tools.claim() == []


async def test_the_highest_priority_goes_first_then_the_oldest(tools: StoreTools) -> None:
    await tools.register()
    low, old, new = [await tools.submit(priority=one) for one in (1, 5, 5)]
    high = await tools.submit(priority=10, family="other")
    assert ids(await tools.claim(max_jobs=3)) == [high, old, new]
    assert ids(await tools.claim(max_jobs=3)) == [low]


async def test_a_warm_model_overtakes_for_thirty_seconds_only(tools: StoreTools) -> None:
    await tools.register()
    cold = await tools.submit(family="cold")
    tools.clock.turn(20)
    warm = [await tools.submit(family="warm") for _ in range(3)]
    assert ids(await tools.claim(models=WARM)) == [warm[0]]
    tools.clock.turn(9.9)
    assert ids(await tools.claim(models=WARM)) == [warm[1]]
    tools.clock.turn(0.1)
    assert ids(await tools.claim(models=WARM)) == [cold]
    assert ids(await tools.claim(models=WARM)) == [warm[2]]


async def test_a_warm_model_never_overtakes_a_higher_priority(tools: StoreTools) -> None:
    await tools.register()
    await tools.submit(family="warm", priority=5)
    urgent = await tools.submit(family="cold", priority=6)
    assert ids(await tools.claim(models=WARM)) == [urgent]


async def test_only_what_fits_is_given(tools: StoreTools) -> None:
    await tools.register(tags={"zone": "a", "disk": "ssd"})
    await tools.submit(runtime="vllm")
    await tools.submit(job_type="training")
    await tools.submit(tags={"zone": "b"})
    await tools.submit(min_memory_mb=501)
    await tools.submit(min_gpu_memory_mb=1)
    fits = await tools.submit(tags={"zone": "a"}, min_memory_mb=500)
    assert ids(await tools.claim(max_jobs=10, memory_available_mb=500)) == [fits]


async def test_a_worker_that_offers_a_job_type_is_given_it(tools: StoreTools) -> None:
    await tools.register(job_types=("training",))
    await tools.submit()
    training = await tools.submit(job_type="training")
    assert ids(await tools.claim(max_jobs=10)) == [training]


async def test_memory_that_a_loaded_model_holds_is_not_asked_for_again(tools: StoreTools) -> None:
    await tools.register()
    job_id = await tools.submit(family="warm", min_memory_mb=900)
    assert await tools.claim(memory_available_mb=100) == []
    assert ids(await tools.claim(memory_available_mb=100, models=WARM)) == [job_id]


async def test_a_paused_or_draining_worker_is_given_nothing(tools: StoreTools) -> None:
    await tools.register()
    job_id = await tools.submit()
    for kind, desired in (("pause", DesiredState.PAUSED), ("drain", DesiredState.DRAINING)):
        await tools.store.direct_worker("wrk_a", kind, desired, "")
        assert await tools.claim() == []
    await tools.store.direct_worker("wrk_a", "resume", DesiredState.ACTIVE, "")
    assert ids(await tools.claim()) == [job_id]


async def test_an_unknown_worker_must_register_and_an_older_instance_must_leave(
    tools: StoreTools,
) -> None:
    with pytest.raises(WorkerUnknownError):
        await tools.claim("wrk_nobody")
    await tools.register(instance="two")
    with pytest.raises(WorkerReplacedError):
        await tools.claim(instance_id="one")
    assert await tools.claim(instance_id="two") == []


async def test_a_repeated_request_is_answered_the_same_until_a_renewal(tools: StoreTools) -> None:
    await tools.register()
    first, second, third = [await tools.submit() for _ in range(3)]
    asked = await tools.claim(max_jobs=2, request_id="r1")
    again = await tools.claim(max_jobs=2, request_id="r1")
    assert ids(asked) == ids(again) == [first, second]
    assert [one.job.attempt for one in again] == [1, 1]
    await tools.store.renew("wrk_a", [])
    assert ids(await tools.claim(max_jobs=2, request_id="r2")) == [third]


async def test_a_claim_is_cut_where_its_message_would_be_too_big(tools: StoreTools) -> None:
    await tools.register()
    big = [await tools.submit(input='"' + "a" * 1000 + '"') for _ in range(3)]
    assert ids(await tools.claim(max_jobs=3, max_bytes=2100)) == big[:2]
    assert ids(await tools.claim(max_jobs=3, max_bytes=10)) == big[2:]


async def test_no_job_is_given_twice_however_many_ask_at_once(tools: StoreTools) -> None:
    for name in "abcdefgh":
        await tools.register(f"wrk_{name}")
    submitted = {await tools.submit() for _ in range(60)}
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(tools.claim(f"wrk_{name}", max_jobs=3))
            for name in "abcdefgh"
            for _ in range(4)
        ]
    given = [job_id for task in tasks for job_id in ids(task.result())]
    assert len(given) == len(set(given)) == 60
    assert set(given) == submitted


async def test_jobs_claimed_for_a_caller_that_went_away_go_back(tools: StoreTools) -> None:
    await tools.register()
    job_ids = {await tools.submit() for _ in range(20)}
    async with asyncio.TaskGroup() as group:
        for turns in range(20):
            task = group.create_task(tools.claim(max_jobs=1))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
    for _ in range(2):  # the first answer comes after every claim's, the second after its undoing
        await tools.store.check_writable()
    held = await tools.store.get_worker("wrk_a")
    released = job_ids - set(held.current_jobs)
    for job_id in held.current_jobs:
        assert (await tools.store.get_job(job_id)).attempt == 1
    assert set(ids(await tools.claim(max_jobs=20))) == released


async def test_a_claim_costs_the_same_whatever_waits(tools: StoreTools) -> None:
    await tools.register()

    async def seconds_of_ten_claims() -> float:
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(10):
                await tools.claim(max_jobs=2)
            best = min(best, time.perf_counter() - start)
        return best

    await tools.store.submit([tools.new_job() for _ in range(200)])
    small = await seconds_of_ten_claims()
    for _ in range(20):
        await tools.store.submit([tools.new_job() for _ in range(1000)])
        await tools.store.submit([tools.new_job(runtime="vllm") for _ in range(50)])
    large = await seconds_of_ten_claims()
    assert large < 4 * small + 0.05
