"""Workers that are asked to leave by a deadline: the stores, and the HTTP API."""

from __future__ import annotations

from typing import Any

import pytest
from cortex_tools import Cortex, StoreTools

from mnemos.cortex.records import DesiredState
from mnemos.protocol.v1 import cortex_pb2 as pb


@pytest.mark.parametrize("seconds", [None, 0.0, 30.5])
async def test_a_deadline_stays_with_its_action(tools: StoreTools, seconds: float | None) -> None:
    await tools.register()
    await tools.store.direct_worker("wrk_a", "drain", DesiredState.DRAINING, "why", seconds)
    for _ in range(2):
        [action] = await tools.store.open_actions("wrk_a")
        assert (action.kind, action.reason, action.deadline_seconds) == ("drain", "why", seconds)


async def test_a_second_deadline_replaces_the_first(tools: StoreTools) -> None:
    await tools.register()
    for seconds in (60.0, 5.0):
        await tools.store.direct_worker("wrk_a", "drain", DesiredState.DRAINING, "", seconds)
    [action] = await tools.store.open_actions("wrk_a")
    assert action.deadline_seconds == 5.0


async def test_cancels_have_no_deadline(tools: StoreTools) -> None:
    job_id = await tools.hold()
    await tools.store.direct_worker("wrk_a", "drain", DesiredState.DRAINING, "", 5.0)
    await tools.store.cancel_job(job_id)
    actions = await tools.store.open_actions("wrk_a")
    assert [(one.kind, one.deadline_seconds) for one in actions] == [
        ("drain", 5.0),
        ("cancel_jobs", None),
    ]


@pytest.mark.parametrize("wish", ["drain", "shutdown", "restart"])
async def test_a_worker_is_told_its_deadline(cortex: Cortex, wish: str) -> None:
    await cortex.register()
    path = f"/api/v1/workers/{cortex.worker_id}/{wish}"
    answer = await cortex.http.post(path, json={"reason": "patch", "deadline_seconds": 2.5})
    assert (answer.status_code, answer.json()["desired_state"]) == (200, "draining")
    beat = pb.HeartbeatRequest(worker_id=cortex.worker_id, status=pb.WORKER_STATUS_IDLE)
    [action] = (await cortex.stub.Heartbeat(beat)).actions
    assert action.reason == "patch"
    assert action.deadline.ToMilliseconds() == 2500


async def test_without_a_deadline_the_worker_decides(cortex: Cortex) -> None:
    await cortex.register()
    await cortex.http.post(f"/api/v1/workers/{cortex.worker_id}/drain")
    beat = pb.HeartbeatRequest(worker_id=cortex.worker_id, status=pb.WORKER_STATUS_IDLE)
    [action] = (await cortex.stub.Heartbeat(beat)).actions
    assert not action.HasField("deadline")


@pytest.mark.parametrize(
    ("wish", "body", "field", "words"),
    [
        ("drain", {"deadline_seconds": -1}, "deadline_seconds", "greater than or equal to 0"),
        ("drain", {"deadline_seconds": 86_401}, "deadline_seconds", "less than or equal to 86400"),
        ("drain", {"deadline_seconds": "30"}, "deadline_seconds", "must be a valid number"),
        ("drain", {"deadline": 30}, "deadline", "is not a known field"),
        ("pause", {"deadline_seconds": 30}, "deadline_seconds", "not with pause"),
        ("resume", {"deadline_seconds": 30}, "deadline_seconds", "not with resume"),
    ],
)
async def test_a_bad_deadline_is_refused_in_one_sentence(
    cortex: Cortex, wish: str, body: dict[str, Any], field: str, words: str
) -> None:
    await cortex.register()
    path = f"/api/v1/workers/{cortex.worker_id}"
    answer = await cortex.http.post(f"{path}/{wish}", json=body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("invalid_input", field)
    assert words in error["message"]
    assert (await cortex.http.get(path)).json()["desired_state"] == "active"
