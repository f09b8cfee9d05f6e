"""CORTEX's HTTP API in memory, with switches for the failures a client must live through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from mnemos.http import ApiError, HttpServer, install_error_handling

FINISHED = frozenset({"completed", "failed", "cancelled", "timeout"})


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll a condition that nothing announces; TimeoutError when it does not come true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - another process or thread makes it true
            await asyncio.sleep(0.01)


class FakeCortex:
    """Answers every job by itself with `echo: <prompt>`, `answer_delay` seconds after it came.

    Switches: `known_models`, `hold` (nothing is answered while it is set), `drop_answers` (that
    many submissions are taken but their answers get lost), `refuse_next` (codes that the next
    jobs are refused with), `fail_prompts` (prompts whose jobs fail),
    `poisonous_prompts` (a batch with one is refused whole), `forget()` (all data gone).
    """

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.by_key: dict[str, str] = {}
        self.finished: list[str] = []
        self.known_models = {"tiny"}
        self.fail_prompts: set[str] = set()
        self.poisonous_prompts: set[str] = set()
        self.drop_answers = 0
        self.refuse_next: list[str] = []
        self.hold = False
        self.submissions = 0
        self.most_unfinished = 0
        self.tokens: dict[str, list[str]] = {}
        self.rows: dict[str, list[int]] = {}
        self.workers: list[dict[str, Any]] = []
        self.cut_stream_after: int | None = None
        self._changed = asyncio.Condition()

    def forget(self) -> None:
        """Lose everything, as a CORTEX does whose data was deleted."""
        self.jobs.clear()
        self.by_key.clear()
        self.finished.clear()

    async def release(self) -> None:
        """Answer what was held."""
        self.hold = False
        for job in list(self.jobs.values()):
            await self._finish(job)

    async def wait_for_jobs(self, count: int) -> None:
        """Return once that many jobs were submitted."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.jobs) >= count)

    async def submit(self, body: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Take one job; the same idempotency key gives the same job back."""
        if self.refuse_next:
            raise ApiError(503, self.refuse_next.pop(0), "Refused by the test.")
        if body["model"]["family"] not in self.known_models:
            raise ApiError(404, "model_not_found", "There is no such model.", "model.family")
        temperature = body["input"]["parameters"].get("temperature", 0)
        if temperature > 2:
            raise ApiError(422, "invalid_input", "temperature: too hot.", "temperature")
        key = body.get("idempotency_key")
        if key in self.by_key:
            return self.jobs[self.by_key[key]], False
        job = self._new_job(body)
        self.jobs[job["job_id"]] = job
        if key:
            self.by_key[key] = job["job_id"]
        self.most_unfinished = max(self.most_unfinished, len(self.jobs) - len(self.finished))
        async with self._changed:
            self._changed.notify_all()
        if not self.hold:
            await self._finish(job)
        return job, True

    def _new_job(self, body: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat()
        return {
            "job_id": f"job_{len(self.jobs):026d}",
            "status": "pending",
            "job_type": body.get("job_type", "inference"),
            "priority": body.get("priority", 5),
            "model": {"version": "1", "runtime": "transformers", **body["model"]},
            "input": body["input"],
            "group": body.get("group"),
            "idempotency_key": body.get("idempotency_key"),
            "metadata": body.get("metadata", {}),
            "attempt": 0,
            "retries_used": 0,
            "worker_id": None,
            "submitted_at": now,
            "started_at": None,
            "finished_at": None,
            "result": None,
            "output_metadata": {},
            "metrics": {},
            "error": None,
            "attempts": [],
            "waiting_reason": "no worker is registered",
        }

    async def _finish(self, job: dict[str, Any]) -> None:
        if job["status"] in FINISHED:
            return
        if job["input"].get("inputs"):
            prompt = "rows"
        else:
            prompt = job["input"].get("prompt") or job["input"]["messages"][-1]["content"]
        job["started_at"] = job["finished_at"] = datetime.now(UTC).isoformat()
        job["attempt"] = 1
        if prompt in self.fail_prompts:
            job["status"] = "failed"
            job["error"] = {"code": "out_of_memory", "message": "Too big.", "retryable": True}
        else:
            job["status"] = "completed"
            rows = job["input"].get("inputs")
            job["result"] = [{"result": row} for row in rows] if rows else f"echo: {prompt}"
            job["output_metadata"] = {
                "tokens_generated": 3,
                "prompt_tokens": 2,
                "finish_reason": "stop",
            }
            job["metrics"] = {"latency_ms": 1.5}
        self.finished.append(job["job_id"])
        async with self._changed:
            self._changed.notify_all()

    async def page(self, group: str, after: int, limit: int, wait: float) -> dict[str, Any]:
        """A long-poll's answer."""

        def found() -> list[tuple[int, dict[str, Any]]]:
            listed = enumerate(self.finished, start=1)
            return [
                (number, self.jobs[job_id])
                for number, job_id in listed
                if number > after and self.jobs[job_id]["group"] == group
            ][:limit]

        def unfinished() -> int:
            mine = [job for job in self.jobs.values() if job["group"] == group]
            return sum(job["status"] not in FINISHED for job in mine)

        try:
            async with asyncio.timeout(wait), self._changed:
                await self._changed.wait_for(lambda: found() or not unfinished())
        except TimeoutError:
            pass
        rows = found()
        return {
            "jobs": [job for _, job in rows],
            "next_cursor": str(rows[-1][0] if rows else after),
            "counts": {
                "total": len(self.jobs),
                "pending": unfinished(),
                "running": 0,
                "finished": len(self.finished),
            },
        }


def create_app(cortex: FakeCortex) -> FastAPI:
    """The routes that the commands use."""
    app = FastAPI()
    install_error_handling(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/api/v1/jobs", status_code=201)
    async def submit(request: Request) -> Any:
        job, _ = await cortex.submit(await request.json())
        return job

    @app.post("/api/v1/jobs/batch")
    async def batch(request: Request) -> Any:
        cortex.submissions += 1
        jobs = (await request.json())["jobs"]
        if any(body["input"].get("prompt") in cortex.poisonous_prompts for body in jobs):
            raise ApiError(422, "invalid_input", "The body is not valid JSON.")
        results: list[dict[str, Any]] = []
        for index, body in enumerate(jobs):
            try:
                job, created = await cortex.submit(body)
            except ApiError as error:
                told = {"code": error.code, "message": error.message, "field": error.field}
                results.append({"index": index, "error": told})
            else:
                named = {"job_id": job["job_id"], "status": job["status"]}
                results.append({"index": index, "created": created, **named})
        if cortex.drop_answers:
            cortex.drop_answers -= 1
            raise ApiError(503, "unavailable", "The answer got lost.")
        return {"results": results}

    @app.get("/api/v1/groups/{group}/results")
    async def results(
        group: str, after: str = "", limit: int = 200, wait_seconds: float = 0
    ) -> Any:
        return await cortex.page(group, int(after or 0), limit, wait_seconds)

    @app.post("/api/v1/groups/{group}/cancel")
    async def cancel_group(group: str) -> Any:
        waiting = [
            job
            for job in cortex.jobs.values()
            if job["group"] == group and job["status"] not in FINISHED
        ]
        for job in waiting:
            job["status"] = "cancelled"
        return {"cancelled": len(waiting)}

    @app.get("/api/v1/jobs")
    async def list_jobs(request: Request, limit: int = 50, cursor: int = 0) -> Any:
        wanted = request.query_params.getlist("status")
        rows = [
            job for job in reversed(cortex.jobs.values()) if not wanted or job["status"] in wanted
        ]
        more = len(rows) > cursor + limit
        page = rows[cursor : cursor + limit]
        return {"jobs": page, "next_cursor": str(cursor + limit) if more else None}

    @app.get("/api/v1/jobs/{job_id}")
    async def show(job_id: str) -> Any:
        return _find(cortex, job_id)

    @app.post("/api/v1/jobs/{job_id}/{action}")
    async def act(job_id: str, action: str) -> Any:
        job = _find(cortex, job_id)
        if job["status"] == "completed":
            raise ApiError(409, "conflict", f"The job {job_id} is completed.")
        job["status"] = "cancelled" if action == "cancel" else "pending"
        return job

    @app.get("/api/v1/jobs/{job_id}/stream")
    async def stream(job_id: str, request: Request) -> StreamingResponse:
        job = _find(cortex, job_id)
        after = int(request.headers.get("last-event-id", "-1"))
        return StreamingResponse(_events(cortex, job, after), media_type="text/event-stream")

    @app.get("/api/v1/workers")
    async def workers() -> Any:
        return {"workers": cortex.workers}

    @app.get("/api/v1/workers/{worker_id}")
    async def worker(worker_id: str) -> Any:
        for one in cortex.workers:
            if one["worker_id"] == worker_id:
                return one
        raise ApiError(404, "worker_not_found", f"There is no worker {worker_id}.")

    return app


def _find(cortex: FakeCortex, job_id: str) -> dict[str, Any]:
    if job_id not in cortex.jobs:
        raise ApiError(404, "job_not_found", f"There is no job {job_id}.")
    return cortex.jobs[job_id]


async def _events(cortex: FakeCortex, job: dict[str, Any], after: int) -> AsyncIterator[str]:
    rows: list[tuple[str, dict[str, Any]]] = [("state", {"status": "streaming", "attempt": 1})]
    rows += [("token", {"content": text}) for text in cortex.tokens.get(job["job_id"], [])]
    rows += [("row", {"index": index}) for index in cortex.rows.get(job["job_id"], [])]
    sent = 0
    for number, (kind, data) in enumerate(rows):
        if number <= after:
            continue
        if cortex.cut_stream_after is not None and sent >= cortex.cut_stream_after:
            cortex.cut_stream_after = None
            return
        sent += 1
        yield f"id: {number}\nevent: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
    yield f"event: end\ndata: {json.dumps(job)}\n\n"


@asynccontextmanager
async def serving(cortex: FakeCortex, port: int = 0) -> AsyncIterator[str]:
    """Serve it on loopback; gives its URL. On leaving, every connection is cut."""
    server = HttpServer(create_app(cortex), "127.0.0.1", port, setting="port", grace_seconds=0.1)
    server.bind()
    async with asyncio.TaskGroup() as tasks:
        serving_task = tasks.create_task(server.serve())
        await server.wait_ready()
        try:
            yield f"http://127.0.0.1:{server.port}"
        finally:
            server.stop()
            serving_task.cancel()
