"""The behaviour of every store, part 4: workers and what is asked of them."""

from __future__ import annotations

import pytest
from cortex_tools import StoreTools

from mnemos.cortex.errors import WorkerNotFoundError, WorkerReplacedError, WorkerUnknownError
from mnemos.cortex.records import AttemptRef, DesiredState, HeartbeatRecord
from mnemos.cortex.state_machine import JobState


def beat(worker_id: str = "wrk_a", **changes: object) -> HeartbeatRecord:
    fields: dict[str, object] = {
        "worker_id": worker_id,
        "status": "idle",
        "status_reason": "",
        "resources": None,
        "models": "[]",
    }
    return HeartbeatRecord(**{**fields, **changes})  # type: ignore[arg-type]  # by keyword


async def test_a_worker_is_shown_as_it_says_it_is(tools: StoreTools) -> None:
    await tools.register(tags={"zone": "a"})
    models = '[{"family": "tiny"}]'
    await tools.store.heartbeat(beat(status="busy", models=models, status_reason="why"))
    worker = await tools.store.get_worker("wrk_a")
    assert (worker.shown_status, worker.status_reason, worker.models) == ("busy", "why", models)
    assert worker.tags == '{"zone": "a"}'
    assert [one.worker_id for one in await tools.store.list_workers()] == ["wrk_a"]


async def test_who_is_not_registered_is_told_so(tools: StoreTools) -> None:
    with pytest.raises(WorkerUnknownError):
        await tools.store.heartbeat(beat())
    with pytest.raises(WorkerUnknownError):
        await tools.store.open_actions("wrk_a")
    with pytest.raises(WorkerUnknownError):
        await tools.store.touch_worker("wrk_a")
    with pytest.raises(WorkerNotFoundError):
        await tools.store.get_worker("wrk_a")
    with pytest.raises(WorkerNotFoundError):
        await tools.store.direct_worker("wrk_a", "pause", DesiredState.PAUSED, "")


async def test_a_silent_worker_is_lost_until_it_is_heard_and_forgotten_in_the_end(
    tools: StoreTools,
) -> None:
    await tools.register()
    tools.clock.turn(89)
    assert (await tools.store.reap()).workers_lost == 0
    tools.clock.turn(2)
    assert (await tools.store.reap()).workers_lost == 1
    assert (await tools.store.get_worker("wrk_a")).shown_status == "lost"
    assert (await tools.store.totals()).workers == {"lost": 1}
    await tools.store.heartbeat(beat())
    assert (await tools.store.get_worker("wrk_a")).shown_status == "idle"
    tools.clock.turn(100)
    await tools.store.reap()
    tools.clock.turn(86_400)
    assert (await tools.store.reap()).workers_forgotten == 1
    assert await tools.store.list_workers() == []


async def test_renewals_and_requests_for_jobs_count_as_being_heard(tools: StoreTools) -> None:
    await tools.register()
    for _ in range(3):
        tools.clock.turn(80)
        await tools.claim()
        tools.clock.turn(80)
        await tools.store.renew("wrk_a", [])
        assert (await tools.store.reap()).workers_lost == 0


async def test_a_worker_that_leaves_hands_its_jobs_back(tools: StoreTools) -> None:
    job_id = await tools.hold(max_retries=0)
    await tools.store.deregister("wrk_a", "draining")
    await tools.store.deregister("wrk_a", "again")
    job = await tools.store.get_job(job_id)
    assert (job.status, job.retries_used) == (JobState.PENDING, 0)
    assert await tools.store.list_workers() == []


async def test_a_process_that_was_replaced_neither_beats_nor_takes_its_successor_along(
    tools: StoreTools,
) -> None:
    await tools.register(instance="one")
    await tools.register(instance="two")

    with pytest.raises(WorkerReplacedError):
        await tools.store.heartbeat(beat(instance_id="one"))
    await tools.store.deregister("wrk_a", "the zombie leaves", "one")

    assert len(await tools.store.list_workers()) == 1
    await tools.store.deregister("wrk_a", "the worker leaves", "two")
    assert await tools.store.list_workers() == []


async def test_the_same_instance_keeps_its_jobs_when_it_registers_again(
    tools: StoreTools,
) -> None:
    job_id = await tools.hold()
    await tools.register()
    assert (await tools.store.get_worker("wrk_a")).current_jobs == [job_id]


async def test_a_new_instance_loses_the_jobs_of_the_old_one_at_once(tools: StoreTools) -> None:
    job_id = await tools.hold()
    await tools.register(instance="two")
    job = await tools.store.get_job(job_id)
    assert (job.status, job.retries_used, job.lost_workers) == (JobState.PENDING, 0, 1)
    [attempt] = await tools.store.get_attempts(job_id)
    assert attempt.outcome == "lost"


async def test_actions_stay_until_they_are_acknowledged(tools: StoreTools) -> None:
    await tools.register()
    await tools.store.direct_worker("wrk_a", "pause", DesiredState.PAUSED, "patching")
    for _ in range(2):
        [action] = await tools.store.heartbeat(beat())
        assert (action.kind, action.reason) == ("pause", "patching")
    assert (await tools.store.get_worker("wrk_a")).shown_status == "paused"
    acknowledged = beat(acknowledged_actions=[action.action_id])
    assert await tools.store.heartbeat(acknowledged) == []
    assert (await tools.store.get_worker("wrk_a")).desired_state is DesiredState.PAUSED


async def test_a_newer_wish_replaces_the_older_and_cancels_stay(tools: StoreTools) -> None:
    job_id = await tools.hold()
    await tools.store.cancel_job(job_id)
    await tools.store.direct_worker("wrk_a", "pause", DesiredState.PAUSED, "")
    await tools.store.direct_worker("wrk_a", "resume", DesiredState.ACTIVE, "")
    actions = await tools.store.open_actions("wrk_a")
    assert [action.kind for action in actions] == ["cancel_jobs", "resume"]
    assert list(actions[0].jobs) == [AttemptRef(job_id, 1)]


@pytest.mark.parametrize(
    ("kind", "desired", "after"),
    [
        ("pause", DesiredState.PAUSED, DesiredState.PAUSED),
        ("drain", DesiredState.DRAINING, DesiredState.ACTIVE),
        ("restart", DesiredState.DRAINING, DesiredState.ACTIVE),
    ],
)
async def test_a_pause_outlives_the_process_and_a_drain_ends_with_it(
    tools: StoreTools, kind: str, desired: DesiredState, after: DesiredState
) -> None:
    await tools.register()
    await tools.store.direct_worker("wrk_a", kind, desired, "")
    await tools.register(instance="two")
    worker = await tools.store.get_worker("wrk_a")
    assert worker.desired_state is after
    kinds = [action.kind for action in await tools.store.open_actions("wrk_a")]
    assert kinds == (["pause"] if kind == "pause" else [])


async def test_a_cancelled_group_is_one_action_for_each_worker(tools: StoreTools) -> None:
    await tools.register("wrk_a")
    await tools.register("wrk_b")
    for _ in range(5):
        await tools.submit(group="g")
    await tools.claim("wrk_a", max_jobs=2)
    await tools.claim("wrk_b", max_jobs=2)
    assert await tools.store.cancel_group("g") == 5
    for worker_id in ("wrk_a", "wrk_b"):
        [action] = await tools.store.open_actions(worker_id)
        assert len(action.jobs) == 2
    counts = await tools.store.group_counts("g")
    assert (counts.running, counts.finished) == (4, 1)
