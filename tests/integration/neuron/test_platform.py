"""A worker among its real neighbours: CORTEX, GENOME, ENGRAM as a folder, a real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tiny_llama import build_tiny_llama

from mnemos.cortex.server import CortexServer
from mnemos.cortex.settings import CortexSettings
from mnemos.engram.publish import push_directory
from mnemos.engram.store import ObjectStore
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings
from neuron.config import Settings
from neuron.worker import NEURONWorker

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llama(tmp_path_factory.mktemp("tiny"), context=8192)


class Platform:
    """The neighbours' addresses, and the calls that a test makes."""

    def __init__(self, root: Path, cortex: CortexServer, genome: GenomeServer) -> None:
        self.root = root
        self.cortex = cortex
        self.genome = genome
        self.engram_url = f"file://{root / 'engram'}"
        self.http = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{cortex.http_port}/api/v1", timeout=30
        )

    async def push(self, folder: Path) -> None:
        store = ObjectStore.from_url(self.engram_url)
        body = await push_directory(store, folder, "tiny", "1")
        async with httpx2.AsyncClient() as client:
            answer = await client.post(f"{self.genome.url}/api/v1/models", json=body)
        assert answer.status_code == 201, answer.text

    async def submit(self, prompt: str, **parameters: Any) -> str:
        answer = await self.http.post(
            "/jobs",
            json={
                "model": {"family": "tiny", "version": "1", "runtime": "transformers"},
                "input": {"prompt": prompt, "parameters": parameters},
                "retry_config": {"max_retries": 0},
                "group": "g",
            },
        )
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["job_id"]
        return job_id

    async def ended(self, job_id: str) -> dict[str, Any]:
        async with asyncio.timeout(90):
            # The stream closes when the job has ended, so there is nothing to poll.
            await self.http.get(f"/jobs/{job_id}/stream", timeout=90)
            job: dict[str, Any] = (await self.http.get(f"/jobs/{job_id}")).json()
            return job

    def worker_settings(self) -> Settings:
        return Settings(
            cortex_grpc_url=f"127.0.0.1:{self.cortex.grpc_port}",
            genome_http_url=self.genome.url,
            minio_endpoint=self.engram_url,
            supported_runtimes="transformers",
            max_concurrent_jobs=4,
            model_cache_dir=self.root / "cache",
            api_host="127.0.0.1",
            api_port=0,
            heartbeat_interval=0.5,
            shutdown_timeout=20,
        )


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    genome_settings = GenomeSettings(data_dir=tmp_path / "genome", http_port=0)
    async with GenomeServer(genome_settings) as genome:
        settings = CortexSettings(
            data_dir=tmp_path / "cortex", http_port=0, grpc_port=0, genome_url=genome.url
        )
        async with CortexServer(settings) as cortex:
            platform = Platform(tmp_path, cortex, genome)
            async with platform.http:
                yield platform


@asynccontextmanager
async def running(platform: Platform) -> AsyncIterator[NEURONWorker]:
    worker = NEURONWorker(platform.worker_settings())
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.start())
        try:
            async with asyncio.timeout(20):
                await worker.ready.wait()
            yield worker
        finally:
            worker.request_stop("the test ended")


async def test_prompts_become_answers(platform: Platform, model_folder: Path) -> None:
    await platform.push(model_folder)
    async with running(platform) as worker:
        plain = await platform.submit("hello", max_tokens=5, temperature=0, ignore_eos=True)
        streamed = await platform.submit(
            "hello", max_tokens=5, temperature=0, ignore_eos=True, stream=True
        )
        one, two = await platform.ended(plain), await platform.ended(streamed)
        workers = (await platform.http.get("/workers")).json()["workers"]

        assert worker.view.info()["models"][0]["family"] == "tiny"
    assert one["status"] == two["status"] == "completed", (one, two)
    assert one["result"] == two["result"]
    assert one["output_metadata"]["tokens_generated"] == 5
    assert one["metrics"]["load_ms"] > 0
    assert [w["worker_id"] for w in workers] == [one["worker_id"]]
    left = (await platform.http.get("/workers")).json()["workers"]
    assert left == [], "the worker must have said goodbye"


async def test_a_streamed_answer_can_be_read_back_token_by_token(
    platform: Platform, model_folder: Path
) -> None:
    await platform.push(model_folder)
    async with running(platform):
        job_id = await platform.submit("hello", max_tokens=8, ignore_eos=True, stream=True)
        job = await platform.ended(job_id)
        events = (await platform.http.get(f"/jobs/{job_id}/stream")).text

    assert job["status"] == "completed"
    assert events.count("event: token") >= 1
    assert "event: end" in events


async def test_a_damaged_artifact_is_one_clear_error(
    platform: Platform, model_folder: Path
) -> None:
    await platform.push(model_folder)
    weights = next((platform.root / "engram").rglob("model.safetensors"))
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(bytes(damaged))

    async with running(platform):
        job = await platform.ended(await platform.submit("hello"))

    assert job["status"] == "failed"
    assert job["error"]["code"] == "artifact_corrupt"
    assert "model.safetensors" in job["error"]["message"]
    assert list((platform.root / "cache" / ".staging").iterdir()) == []
    assert not (platform.root / "cache" / "tiny" / "1").exists()


async def test_cancelling_a_running_job_stops_it(platform: Platform, model_folder: Path) -> None:
    await platform.push(model_folder)
    async with running(platform):
        job_id = await platform.submit("hello", max_tokens=8000, ignore_eos=True, stream=True)
        async with platform.http.stream("GET", f"/jobs/{job_id}/stream") as events:
            async for line in events.aiter_lines():
                if line.startswith("event: token"):
                    await platform.http.post(f"/jobs/{job_id}/cancel")
                    break
        job = await platform.ended(job_id)

    assert job["status"] == "cancelled"
