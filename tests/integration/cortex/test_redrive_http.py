"""Dead letters over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from cortex_tools import Cortex

from mnemos.cortex.api import redrive
from mnemos.protocol.v1 import cortex_pb2 as pb

PATH = "/api/v1/jobs/redrive"


async def fail(
    cortex: Cortex, code: pb.ErrorCode.ValueType = pb.ERROR_CODE_ENGINE_CRASHED, **changes: Any
) -> str:
    job_id = await cortex.hold(retry_config={"max_retries": 0}, **changes)
    failed = pb.JobResult(
        job_id=job_id,
        attempt=1,
        status=pb.JOB_STATUS_FAILED,
        error="it died",
        error_details=pb.ErrorDetails(code=code),
    )
    await cortex.report(failed)
    return job_id


async def ask(cortex: Cortex, **body: Any) -> dict[str, Any]:
    answer = await cortex.http.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_a_dry_run_counts_and_changes_nothing(cortex: Cortex) -> None:
    job_id = await fail(cortex, group="g")
    await fail(cortex, pb.ERROR_CODE_INTERNAL)
    told = await ask(cortex, error_code="engine_crashed", group="g", model="tiny:1", dry_run=True)
    assert told == {"jobs": 1, "dry_run": True, "next_cursor": None}
    assert (await cortex.job(job_id))["status"] == "failed"


async def test_dead_letters_are_queued_again_once(cortex: Cortex) -> None:
    job_id = await fail(cortex)
    other = await fail(cortex, pb.ERROR_CODE_INTERNAL)
    listed = await cortex.http.get("/api/v1/jobs", params={"error_code": "engine_crashed"})
    assert [job["job_id"] for job in listed.json()["jobs"]] == [job_id]
    told = await ask(cortex, status="failed", error_code="engine_crashed")
    assert told == {"jobs": 1, "dry_run": False, "next_cursor": None}
    assert (await ask(cortex, error_code="engine_crashed"))["jobs"] == 0
    job = await cortex.job(job_id)
    assert (job["status"], job["error"], job["retries_used"]) == ("pending", None, 0)
    assert (await cortex.job(other))["status"] == "failed"


async def test_times_are_those_of_the_end(cortex: Cortex) -> None:
    job_id = await fail(cortex)
    ended = (await cortex.job(job_id))["finished_at"]
    assert (await ask(cortex, finished_after="2999-01-01", dry_run=True))["jobs"] == 0
    assert (await ask(cortex, finished_before="2020-01-01T00:00:00Z", dry_run=True))["jobs"] == 0
    assert (await ask(cortex, finished_after=ended, dry_run=True))["jobs"] == 1


async def test_a_long_redrive_goes_on_by_cursor(
    cortex: Cortex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redrive, "BUDGET_SECONDS", 0.0)
    batch = {"jobs": [cortex.body(group="g") for _ in range(250)]}
    await cortex.http.post("/api/v1/jobs/batch", json=batch)
    await cortex.http.post("/api/v1/groups/g/cancel")
    counts: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        told = await ask(cortex, status=["cancelled"], **cursor)
        counts.append(told["jobs"])
        if told["next_cursor"] is None:
            break
        cursor = {"cursor": told["next_cursor"]}
    assert sum(counts) == 250
    assert len(counts) > 2
    assert max(counts) < 250


async def test_what_ends_anew_before_a_redrive_goes_on_is_left_alone(
    cortex: Cortex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redrive, "BUDGET_SECONDS", 0.0)
    batch = {"jobs": [cortex.body(group="g") for _ in range(150)]}
    await cortex.http.post("/api/v1/jobs/batch", json=batch)
    await cortex.http.post("/api/v1/groups/g/cancel")
    first = await ask(cortex, status="cancelled")
    assert (first["jobs"], first["next_cursor"] is None) == (100, False)
    again = (await cortex.http.post("/api/v1/groups/g/cancel")).json()
    assert again == {"cancelled": 100}
    done, cursor = 0, first["next_cursor"]
    while cursor is not None:
        told = await ask(cortex, status="cancelled", cursor=cursor)
        done, cursor = done + told["jobs"], told["next_cursor"]
    assert done == 50
    assert (await ask(cortex, status="cancelled", dry_run=True))["jobs"] == 100


async def test_a_limit_that_is_reached_is_the_end(
    cortex: Cortex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redrive, "BUDGET_SECONDS", 0.0)
    for _ in range(2):
        await fail(cortex)
    told = await ask(cortex, limit=1)
    assert told == {"jobs": 1, "dry_run": False, "next_cursor": None}


async def test_a_limit_is_kept(cortex: Cortex) -> None:
    for _ in range(3):
        await fail(cortex)
    assert (await ask(cortex, limit=2))["jobs"] == 2
    assert (await ask(cortex, limit=2))["jobs"] == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"status": "completed"}, "status.0"),
        ({"status": []}, "status"),
        ({"limit": 0}, "limit"),
        ({"limit": "5"}, "limit"),
        ({"dry_run": "yes"}, "dry_run"),
        ({"error": "internal"}, "error"),
        ({"model": ""}, "model"),
        ({"finished_after": "yesterday"}, "finished_after"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "bmFuIDE"}, "cursor"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    cortex: Cortex, body: dict[str, Any], field: str
) -> None:
    answer = await cortex.http.post(PATH, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == field
    assert (await cortex.http.post(PATH)).status_code == 422
