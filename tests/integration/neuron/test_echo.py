"""The echo runtime through a real CORTEX: no GENOME, no ENGRAM, no engine process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mnemos.cortex.server import CortexServer
from mnemos.cortex.settings import CortexSettings
from neuron.config import Settings
from neuron.worker import NEURONWorker

pytestmark = pytest.mark.timeout(60)
NOBODY = "http://127.0.0.1:9"


class Echoes:
    """A CORTEX whose GENOME is out of reach, and what tests ask of it."""

    def __init__(self, root: Path, cortex: CortexServer) -> None:
        self.root = root
        self.cortex = cortex
        self.http = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{cortex.http_port}/api/v1", timeout=30
        )

    async def submit(
        self, prompt: str, token_seconds: float | None = None, **parameters: Any
    ) -> str:
        config = {} if token_seconds is None else {"token_seconds": token_seconds}
        body = {
            "model": {
                "family": "echo",
                "version": "1",
                "runtime": "echo",
                "runtime_config": config,
            },
            "input": {"prompt": prompt, "parameters": parameters},
            "retry_config": {"max_retries": 0},
        }
        answer = await self.http.post("/jobs", json=body)
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["job_id"]
        return job_id

    async def ended(self, job_id: str) -> dict[str, Any]:
        await self.events(job_id)
        job: dict[str, Any] = (await self.http.get(f"/jobs/{job_id}")).json()
        return job

    async def events(self, job_id: str) -> list[tuple[str, dict[str, Any]]]:
        """Every event of a job; the stream closes when it has ended."""
        text = (await self.http.get(f"/jobs/{job_id}/stream")).text
        found = []
        for block in text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if "event" in fields:
                found.append((fields["event"], json.loads(fields["data"])))
        return found

    async def until_token(self, job_id: str) -> None:
        async with self.http.stream("GET", f"/jobs/{job_id}/stream") as events:
            async for line in events.aiter_lines():
                if line.startswith("event: token"):
                    return

    @asynccontextmanager
    async def worker(self, **given: Any) -> AsyncIterator[NEURONWorker]:
        plain: dict[str, Any] = {
            "cortex_grpc_url": f"127.0.0.1:{self.cortex.grpc_port}",
            "genome_http_url": NOBODY,
            "minio_endpoint": f"file://{self.root / 'engram'}",
            "supported_runtimes": "echo",
            "max_concurrent_jobs": 4,
            "model_cache_dir": self.root / "cache",
            "api_host": "127.0.0.1",
            "api_port": 0,
            "shutdown_timeout": 10,
        }
        worker = NEURONWorker(Settings(**(plain | given)))
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.start())
            try:
                async with asyncio.timeout(20):
                    await worker.ready.wait()
                yield worker
            finally:
                worker.request_stop("the test ended")


@pytest.fixture
async def echoes(tmp_path: Path) -> AsyncIterator[Echoes]:
    settings = CortexSettings(
        data_dir=tmp_path / "cortex", http_port=0, grpc_port=0, genome_url=NOBODY
    )
    async with CortexServer(settings) as cortex:
        echoes = Echoes(tmp_path, cortex)
        async with echoes.http:
            yield echoes


async def test_prompts_come_back(echoes: Echoes) -> None:
    async with echoes.worker():
        plain, longer = await echoes.submit("a b"), await echoes.submit("a b", max_tokens=5)
        many = [await echoes.submit(f"word {index}") for index in range(20)]
        jobs = [await echoes.ended(job_id) for job_id in (plain, longer, *many)]

    assert [job["status"] for job in jobs] == ["completed"] * 22, jobs
    assert [job["result"] for job in jobs[:3]] == ["a b", "a b a b a", "word 0"]
    assert jobs[1]["output_metadata"]["tokens_generated"] == 5


async def test_a_streamed_echo_comes_token_by_token(echoes: Echoes) -> None:
    async with echoes.worker():
        job_id = await echoes.submit("a b c", token_seconds=0.05, max_tokens=6, stream=True)
        job, events = await echoes.ended(job_id), await echoes.events(job_id)

    tokens = [data for kind, data in events if kind == "token"]
    assert len(tokens) > 2
    assert "".join(one["content"] for one in tokens) == job["result"] == "a b c a b c"
    assert [token for one in tokens for token in one["token_ids"]] == list(range(6))


async def test_another_worker_goes_on_behind_the_last_token(echoes: Echoes) -> None:
    async with echoes.worker() as first:
        job_id = await echoes.submit("ä 漢 🙂", token_seconds=0.02, max_tokens=60, stream=True)
        await echoes.until_token(job_id)
        first.request_stop_now("its jobs go elsewhere")
    async with echoes.worker():
        job, events = await echoes.ended(job_id), await echoes.events(job_id)

    tokens = [data for kind, data in events if kind == "token"]
    assert job["result"] == " ".join(["ä 漢 🙂"] * 20)
    assert "".join(one["content"] for one in tokens) == job["result"]
    assert [token for one in tokens for token in one["token_ids"]] == list(range(60))
    assert [kind for kind, _ in events if kind == "restart"] == []
    assert 0 < job["output_metadata"]["resumed_tokens"] < 60


async def test_a_cancelled_echo_stops(echoes: Echoes) -> None:
    async with echoes.worker() as worker:
        job_id = await echoes.submit("a", token_seconds=1, max_tokens=1000, stream=True)
        await echoes.until_token(job_id)
        await echoes.http.post(f"/jobs/{job_id}/cancel")
        job = await echoes.ended(job_id)
        async with asyncio.timeout(5):
            assert worker.view.parts is not None
            await worker.view.parts.executor.wait_for_completion()

    assert job["status"] == "cancelled"


@pytest.mark.parametrize(("offered", "status"), [("echo", "failed"), ("transformers", "pending")])
async def test_bad_configs_fail_and_workers_without_echo_leave_it(
    echoes: Echoes, offered: str, status: str
) -> None:
    async with echoes.worker(supported_runtimes=offered):
        job_id = await echoes.submit("a", token_seconds=-1)
        if status == "failed":
            job = await echoes.ended(job_id)
            assert job["error"]["code"] == "invalid_input"
            assert "token_seconds" in job["error"]["message"]
        else:
            job = (await echoes.http.get(f"/jobs/{job_id}")).json()
            assert "no registered worker offers the runtime echo" in job["waiting_reason"]
    assert job["status"] == status
