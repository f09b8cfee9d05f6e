"""The HTTP API, over a real socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest
from cortex_tools import Cortex, running_cortex

from mnemos.cortex.settings import CortexSettings
from mnemos.protocol.v1 import cortex_pb2 as pb


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.headers["x-request-id"]
    body: dict[str, Any] = answer.json()["error"]
    assert set(body) == {"code", "message", "field"}
    return body


async def test_a_submitted_job_is_answered_as_it_is_stored(cortex: Cortex) -> None:
    body = cortex.body(priority=8, metadata={"id": "é"}, group="g")
    answer = await cortex.http.post("/api/v1/jobs", json=body)
    assert answer.status_code == 201
    job = answer.json()
    assert (job["status"], job["priority"], job["metadata"]) == ("pending", 8, {"id": "é"})
    assert job["input"] == body["input"]
    assert job["model"] == {**body["model"], "runtime_config": {}}
    assert job["retry_config"]["max_retries"] == 3
    shown = await cortex.job(job["job_id"])
    assert shown.pop("attempts") == []
    waits = {"code": "no_worker", "message": "no worker is registered"}
    assert shown.pop("waiting_for") == waits
    assert shown.pop("waiting_reason") == waits["message"]
    assert shown == job


async def test_a_key_gives_the_same_job_and_a_changed_body_is_a_conflict(cortex: Cortex) -> None:
    headers = {"Idempotency-Key": "k"}
    first = await cortex.http.post("/api/v1/jobs", json=cortex.body(), headers=headers)
    again = await cortex.http.post("/api/v1/jobs", json=cortex.body(idempotency_key="k"))
    other = await cortex.http.post("/api/v1/jobs", json=cortex.body(priority=1), headers=headers)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert first.json()["job_id"] == again.json()["job_id"]
    assert error_of(other)["code"] == "conflict"
    assert error_of(other)["field"] == "idempotency_key"


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code", "field"),
    [
        ("POST", "/api/v1/jobs", "{", 422, "invalid_input", None),
        ("POST", "/api/v1/jobs", "[]", 422, "invalid_input", None),
        ("POST", "/api/v1/jobs", "{}", 422, "invalid_input", "model"),
        ("POST", "/api/v1/jobs", "[" * 50_000, 422, "invalid_input", None),
        ("POST", "/api/v1/jobs/batch", '{"jobs": 1}', 422, "invalid_input", "jobs"),
        ("GET", "/api/v1/jobs?limit=0", None, 422, "invalid_input", "limit"),
        ("GET", "/api/v1/jobs?limit=501", None, 422, "invalid_input", "limit"),
        ("GET", "/api/v1/jobs?status=lazy", None, 422, "invalid_input", "status.0"),
        ("GET", "/api/v1/jobs?cursor=nonsense", None, 422, "invalid_input", "cursor"),
        ("GET", "/api/v1/jobs?submitted_after=x", None, 422, "invalid_input", "submitted_after"),
        ("GET", "/api/v1/jobs/job_x", None, 404, "job_not_found", None),
        ("DELETE", "/api/v1/jobs/job_x", None, 404, "job_not_found", None),
        ("POST", "/api/v1/jobs/job_x/retry", None, 404, "job_not_found", None),
        ("GET", "/api/v1/jobs/job_x/stream", None, 404, "job_not_found", None),
        ("GET", "/api/v1/groups/g/results?after=x", None, 422, "invalid_input", "after"),
        ("GET", "/api/v1/workers/wrk_x", None, 404, "worker_not_found", None),
        ("POST", "/api/v1/workers/wrk_x/pause", None, 404, "worker_not_found", None),
        ("POST", "/api/v1/workers/wrk_x/dance", None, 422, "invalid_input", "wish"),
        ("GET", "/nowhere", None, 404, "not_found", None),
        ("PUT", "/api/v1/jobs", None, 405, "method_not_allowed", None),
    ],
)
async def test_every_refusal_has_the_same_shape(
    cortex: Cortex,
    method: str,
    path: str,
    content: str | None,
    status: int,
    code: str,
    field: str | None,
) -> None:
    headers = {"content-type": "application/json", "x-request-id": "mine-1"}
    answer = await cortex.http.request(method, path, content=content, headers=headers)
    assert answer.status_code == status, answer.text
    error = error_of(answer)
    assert (error["code"], error["field"]) == (code, field)
    assert answer.headers["x-request-id"] == "mine-1"


async def test_a_body_over_the_limit_is_a_413(cortex: Cortex) -> None:
    answer = await cortex.http.post(
        "/api/v1/jobs",
        content=b" " * (16 * 1024 * 1024 + 1),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "too_large"


async def test_a_bad_line_of_a_batch_does_not_refuse_the_rest(cortex: Cortex) -> None:
    bad = cortex.body(input={"prompt": "Hi", "parameters": {"max_tokens": -1}})
    keyed = cortex.body(idempotency_key="k")
    jobs = [
        cortex.body(),
        bad,
        "nonsense",
        keyed,
        keyed,
        cortex.body(idempotency_key="k", priority=1),
    ]
    answer = await cortex.http.post("/api/v1/jobs/batch", json={"jobs": jobs})
    assert answer.status_code == 200
    lines = answer.json()["results"]
    assert [line["index"] for line in lines] == list(range(6))
    assert [line.get("created") for line in lines] == [True, None, None, True, False, None]
    assert lines[1]["error"]["field"] == "input.parameters.max_tokens"
    assert lines[2]["error"]["code"] == "invalid_input"
    assert lines[3]["job_id"] == lines[4]["job_id"]
    assert lines[5]["error"]["code"] == "conflict"
    too_many = await cortex.http.post("/api/v1/jobs/batch", json={"jobs": [bad] * 1001})
    assert too_many.status_code == 422


async def test_lists_go_on_by_cursor_without_gaps_or_repeats(cortex: Cortex) -> None:
    batch = {"jobs": [cortex.body() for _ in range(7)]}
    lines = (await cortex.http.post("/api/v1/jobs/batch", json=batch)).json()["results"]
    submitted = [line["job_id"] for line in lines]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        parameters = {"limit": "3", **({"cursor": cursor} if cursor else {})}
        page = (await cortex.http.get("/api/v1/jobs", params=parameters)).json()
        seen += [job["job_id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
        assert "input" not in page["jobs"][0]
        await cortex.submit()
    assert seen == submitted[::-1]


async def test_a_full_list_of_big_jobs_goes_on_by_cursor(cortex: Cortex) -> None:
    big = {"prompt": "a" * 2_900_000, "parameters": {}}
    submitted = [await cortex.submit(input=big) for _ in range(7)]
    seen: list[str] = []
    parameters = {"full": "true"}
    while parameters.get("cursor") != "":
        page = (await cortex.http.get("/api/v1/jobs", params=parameters)).json()
        assert len(page["jobs"]) < 7
        seen += [job["job_id"] for job in page["jobs"]]
        parameters["cursor"] = page["next_cursor"] or ""
    assert seen == submitted[::-1]


async def test_lists_take_every_filter(cortex: Cortex) -> None:
    await cortex.register()
    held = await cortex.hold(group="g")
    await cortex.submit(model={"family": "other", "version": "2", "runtime": "vllm"})

    async def ids(**parameters: Any) -> list[str]:
        answer = await cortex.http.get("/api/v1/jobs", params=parameters)
        return [job["job_id"] for job in answer.json()["jobs"]]

    assert await ids(model="tiny") == await ids(model="tiny:1") == [held]
    assert await ids(model="tiny:2") == []
    assert await ids(worker_id=cortex.worker_id) == await ids(group="g") == [held]
    assert await ids(status=["acquired", "failed"]) == [held]
    assert await ids(submitted_after="2999-01-01T00:00:00Z") == []
    assert len(await ids(submitted_before="2999-01-01", job_type="inference")) == 2
    full = await cortex.http.get("/api/v1/jobs", params={"full": "true"})
    assert full.json()["jobs"][0]["input"]["prompt"] == "Hello"


async def test_cancel_and_retry(cortex: Cortex) -> None:
    job_id = await cortex.submit()
    path = f"/api/v1/jobs/{job_id}"
    for answer in (await cortex.http.delete(path), await cortex.http.post(f"{path}/cancel")):
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    again = await cortex.http.post(f"{path}/retry")
    assert (again.status_code, again.json()["status"]) == (200, "pending")
    refused = await cortex.http.post(f"{path}/retry")
    assert (refused.status_code, error_of(refused)["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("capabilities", "body", "words"),
    [
        (
            {"supported_runtimes": ["vllm"], "unavailable_runtimes": {"transformers": "no torch"}},
            {},
            ["runtime transformers", "workers offer: vllm", "no torch"],
        ),
        (
            {"supported_runtimes": ["transformers"]},
            {
                "job_type": "evaluation",
                "input": {"inputs": [{"prompt": "1+1?", "reference": "2"}]},
            },
            ["type evaluation"],
        ),
        (
            {"supported_runtimes": ["transformers"]},
            {"requirements": {"tags": {"zone": "b"}}},
            ["tag zone=b"],
        ),
        (
            {"supported_runtimes": ["transformers"]},
            {"requirements": {"min_gpu_memory_mb": 8000}},
            ["7.81 GiB of GPU memory (none has any)"],
        ),
    ],
)
async def test_a_waiting_job_says_why(
    cortex: Cortex, capabilities: dict[str, Any], body: dict[str, Any], words: list[str]
) -> None:
    await cortex.register(capabilities=pb.WorkerCapabilities(**capabilities))
    reason = (await cortex.job(await cortex.submit(**body)))["waiting_reason"]
    for word in words:
        assert word in reason


async def test_a_job_behind_busy_or_paused_workers_says_so(cortex: Cortex) -> None:
    await cortex.register()
    job_id = await cortex.submit()
    beat = pb.HeartbeatRequest(worker_id=cortex.worker_id, status=pb.WORKER_STATUS_BUSY)
    await cortex.stub.Heartbeat(beat)
    waits = (await cortex.job(job_id))["waiting_for"]
    assert waits["message"] == "the one worker that could run it is busy"
    await cortex.http.post(f"/api/v1/workers/{cortex.worker_id}/pause")
    assert "paused" in (await cortex.job(job_id))["waiting_reason"]


async def test_workers_are_shown_and_directed(cortex: Cortex) -> None:
    await cortex.register(tags={"zone": "a"})
    path = f"/api/v1/workers/{cortex.worker_id}"
    model = pb.LoadedModel(family="tiny", version="1", runtime="transformers", load_seconds=1.5)
    beat = pb.HeartbeatRequest(
        worker_id=cortex.worker_id, status=pb.WORKER_STATUS_IDLE, models=[model]
    )
    await cortex.stub.Heartbeat(beat)
    worker = (await cortex.http.get(path)).json()
    assert (worker["status"], worker["desired_state"]) == ("idle", "active")
    assert worker["tags"] == {"zone": "a"}
    assert worker["models"][0]["load_seconds"] == 1.5
    assert worker["capabilities"]["max_concurrent_jobs"] == 8
    [listed] = (await cortex.http.get("/api/v1/workers")).json()["workers"]
    assert listed == worker
    for wish, desired, status in (
        ("pause", "paused", "paused"),
        ("resume", "active", "idle"),
        ("drain", "draining", "idle"),
    ):
        shown = (await cortex.http.post(f"{path}/{wish}")).json()
        assert (shown["desired_state"], shown["status"]) == (desired, status)


async def test_numbers_health_and_metrics(cortex: Cortex) -> None:
    job_id = await cortex.hold(priority=9)
    await cortex.submit(priority=2)
    queue = (await cortex.http.get("/api/v1/queue")).json()
    assert (queue["pending"], queue["running"], queue["delayed"]) == (1, 1, 0)
    assert queue["by_priority"] == {"9": 0, "2": 1}
    assert queue["by_model"] == [
        {"family": "tiny", "version": "1", "runtime": "transformers", "pending": 1, "running": 1}
    ]
    await cortex.complete(job_id)
    stats = (await cortex.http.get("/api/v1/stats")).json()
    assert (stats["jobs"]["completed"], stats["jobs"]["pending"]) == (1, 1)
    assert (await cortex.http.get("/health")).json()["status"] == "ok"
    assert (await cortex.http.get("/ready")).json() == {"ready": True, "reasons": []}
    metrics = (await cortex.http.get("/metrics")).text
    for line in (
        'neuron_jobs_total{state="completed"} 1.0',
        'neuron_queue_jobs{priority="2"} 1.0',
        'neuron_workers{state="initializing"} 1.0',
        "neuron_job_wait_seconds_count 1.0",
        "neuron_leases_expired_total 0.0",
    ):
        assert line in metrics


async def test_the_openapi_document_names_every_route(cortex: Cortex) -> None:
    document = (await cortex.http.get("/openapi.json")).json()
    for path in (
        "/api/v1/jobs",
        "/api/v1/jobs/batch",
        "/api/v1/jobs/{job_id}",
        "/api/v1/jobs/{job_id}/stream",
        "/api/v1/groups/{group}/results",
        "/api/v1/workers/{worker_id}/{wish}",
        "/api/v1/queue",
    ):
        operations = document["paths"][path]
        assert all(operation["summary"] for operation in operations.values())
    assert document["components"]["schemas"]["JobSubmit"]["examples"]


class Event:
    """One server-sent event."""

    def __init__(self, text: str) -> None:
        fields = dict(line.split(": ", 1) for line in text.splitlines())
        self.id = int(fields["id"]) if "id" in fields else None
        self.kind = fields["event"]
        self.data: Any = json.loads(fields["data"])


async def follow(cortex: Cortex, job_id: str, **options: Any) -> list[Event]:
    path = f"/api/v1/jobs/{job_id}/stream"
    async with cortex.http.stream("GET", path, **options) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = "".join([part async for part in answer.aiter_text()])
    return [Event(one) for one in text.strip().split("\n\n")]


async def test_a_reader_sees_tokens_as_they_come(cortex: Cortex) -> None:
    job_id = await cortex.hold()
    path = f"/api/v1/jobs/{job_id}/stream"
    async with asyncio.timeout(10), cortex.http.stream("GET", path) as answer:
        lines = answer.aiter_lines()

        async def until(text: str) -> None:
            async for line in lines:
                if text in line:
                    return
            raise AssertionError(f"the stream ended before {text}")

        await until("acquired")
        for number in range(3):
            await cortex.chunks(job_id, f"t{number}", first=number)
            await until(f'"t{number}"')
        await cortex.complete(job_id)
        await until("event: end")


async def test_a_log_is_replayed_from_any_place(cortex: Cortex) -> None:
    job_id = await cortex.hold(input={"prompt": "Hello", "parameters": {"stream": True}})
    await cortex.chunks(job_id, "a", "b", "c")
    await cortex.complete(job_id, answer="abc")
    events = await follow(cortex, job_id)
    assert [event.id for event in events] == [*range(7), None]
    assert [event.data["content"] for event in events if event.kind == "token"] == [*"abc"]
    assert (events[-1].kind, events[-1].data["result"]) == ("end", "abc")
    for start in range(9):
        replayed = await follow(cortex, job_id, params={"from_sequence": start})
        assert [event.id for event in replayed] == [*range(start, 7), None]
    resumed = await follow(cortex, job_id, headers={"Last-Event-ID": "4"})
    assert [event.id for event in resumed] == [5, 6, None]
    refused = await cortex.http.get(f"/api/v1/jobs/{job_id}/stream", headers={"Last-Event-ID": "x"})
    assert (refused.status_code, error_of(refused)["field"]) == (422, "Last-Event-ID")


async def test_a_long_log_comes_in_pages(cortex: Cortex) -> None:
    job_id = await cortex.hold()
    await cortex.chunks(job_id, *(str(number) for number in range(1000)))
    await cortex.complete(job_id)
    events = await follow(cortex, job_id)
    tokens = [event.data["content"] for event in events if event.kind == "token"]
    assert tokens == [str(number) for number in range(1000)]


async def test_a_group_is_waited_for(cortex: Cortex) -> None:
    await cortex.register()
    first, second = [await cortex.submit(group="g") for _ in range(2)]
    await cortex.acquire(max_jobs=2)
    path = "/api/v1/groups/g/results"
    quick = (await cortex.http.get(path, params={"wait_seconds": 0})).json()
    assert (quick["jobs"], quick["counts"]["running"]) == ([], 2)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = group.create_task(cortex.http.get(path, params={"wait_seconds": 30}))
        await cortex.complete(second)
    page = waiting.result().json()
    assert [job["job_id"] for job in page["jobs"]] == [second]
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        parameters = {"wait_seconds": 30, "after": page["next_cursor"]}
        waiting = group.create_task(cortex.http.get(path, params=parameters))
        await cortex.complete(first)
    page = waiting.result().json()
    assert [job["job_id"] for job in page["jobs"]] == [first]
    done = await cortex.http.get(path, params={"after": page["next_cursor"], "wait_seconds": 30})
    assert done.json() == {
        "jobs": [],
        "next_cursor": page["next_cursor"],
        "counts": {"total": 2, "pending": 0, "running": 0, "finished": 2},
    }
    assert (await cortex.http.post("/api/v1/groups/g/cancel")).json() == {"cancelled": 0}


async def test_leaving_the_server_ends_open_streams(settings: CortexSettings) -> None:
    async with asyncio.timeout(15), running_cortex(settings) as cortex:
        path = f"/api/v1/jobs/{await cortex.submit()}/stream"
        async with cortex.http.stream("GET", path) as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == "id: 0"
            cortex.server.notifier.close()
            rest = [line async for line in lines]
    assert not any(line.startswith("event: end") for line in rest)
