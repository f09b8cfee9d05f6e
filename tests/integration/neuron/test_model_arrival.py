"""A worker among its real neighbours: how models arrive, ahead of jobs and under their eyes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cortex_tools import eventually
from fake_cortex import FakeCortex
from fake_engine import FakeEngines

from mnemos.cortex.server import CortexServer
from mnemos.cortex.settings import CortexSettings
from mnemos.engram.fetch import CONNECTIONS, WantedFile
from mnemos.engram.publish import push_directory
from mnemos.engram.store import ObjectStore
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings
from neuron.clients.engram_client import EngramClient
from neuron.config import Settings
from neuron.services.model_loader import ModelLoaderService
from neuron.worker import NEURONWorker

MODELS = ("one", "two")
SIZE = 100_000


class Platform:
    """CORTEX, GENOME and a folder with two models in it."""

    def __init__(self, root: Path, cortex: CortexServer, genome: GenomeServer) -> None:
        self.root = root
        self.cortex = cortex
        self.genome = genome
        self.engram_url = f"file://{root / 'engram'}"
        self.digests: dict[str, str] = {}
        self.http = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{cortex.http_port}/api/v1", timeout=30
        )

    async def push(self, name: str) -> None:
        (folder := self.root / name).mkdir()
        header = json.dumps({"w": {"dtype": "U8", "shape": [SIZE], "data_offsets": [0, SIZE]}})
        start = len(header).to_bytes(8, "little") + header.encode()
        (folder / "model.safetensors").write_bytes(start + name.encode()[:1] * SIZE)
        (folder / "config.json").write_text("{}")
        store = ObjectStore.from_url(self.engram_url)
        body = await push_directory(store, folder, name, "1")
        async with httpx2.AsyncClient() as client:
            answer = await client.post(f"{self.genome.url}/api/v1/models", json=body)
        assert answer.status_code == 201, answer.text
        self.digests[name] = answer.json()["artifact"]["checksum"]

    async def submit(self, family: str, prompt: str) -> str:
        body = {
            "model": {"family": family, "version": "1", "runtime": "transformers"},
            "input": {"prompt": prompt},
            "retry_config": {"initial_backoff_seconds": 0.05},
        }
        answer = await self.http.post("/jobs", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job_id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.http.get(f"/jobs/{job_id}")).json()
        return answer

    async def completed(self, job_id: str) -> dict[str, Any]:
        """Return a job once it has ended; its stream of events ends then."""
        await self.http.get(f"/jobs/{job_id}/stream")
        job = await self.job(job_id)
        assert job["status"] == "completed", job
        return job


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
                for name in MODELS:
                    await platform.push(name)
                yield platform


@asynccontextmanager
async def running(
    platform: Platform, engines: FakeEngines, slots: int, **given: Any
) -> AsyncIterator[NEURONWorker]:
    settings = Settings(
        cortex_grpc_url=f"127.0.0.1:{platform.cortex.grpc_port}",
        genome_http_url=platform.genome.url,
        minio_endpoint=platform.engram_url,
        supported_runtimes="transformers",
        max_concurrent_jobs=slots,
        engine_memory_mb=100_000,
        model_cache_dir=platform.root / "cache",
        api_host="127.0.0.1",
        api_port=0,
        heartbeat_interval=0.2,
        **given,
    )
    worker = NEURONWorker(settings, engine_factory=engines)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.start())
        try:
            async with asyncio.timeout(20):
                await worker.ready.wait()
            yield worker
        finally:
            worker.request_stop_now("the test ended")


def loader_of(worker: NEURONWorker) -> ModelLoaderService:
    assert worker.view.parts is not None
    return worker.view.parts.loader


async def test_a_model_that_a_job_waits_for_is_fetched_while_the_worker_is_busy(
    platform: Platform,
) -> None:
    engines = FakeEngines()
    async with running(platform, engines, slots=1) as worker:
        first = await platform.submit("one", "wait")
        async with asyncio.timeout(20):
            await engines.started.wait()
        second = await platform.submit("two", "tokens 2")

        async def is_here() -> bool:
            return await loader_of(worker).digest("two", "1") == platform.digests["two"]

        await eventually(is_here, "the second model lies in the cache", 20)
        assert engines.loads == ["one:1"], "on the disk only"
        assert (await platform.job(second))["status"] == "pending"
        engines.go.set()
        for job_id, model in ((first, "one"), (second, "two")):
            job = await platform.completed(job_id)
            assert job["output_metadata"]["model_digest"] == platform.digests[model]


class HalfwayEngram:
    """Says that half of the bytes have come, and goes on when it may."""

    def __init__(self, client: EngramClient) -> None:
        self.client = client
        self.may_go_on = asyncio.Event()

    async def fetch(
        self,
        bucket: str | None,
        files: Sequence[WantedFile],
        on_bytes: Callable[[int], None] | None = None,
        *,
        connections: int = CONNECTIONS,
    ) -> None:
        assert on_bytes is not None
        on_bytes(sum(file.size for file in files) // 2)
        await self.may_go_on.wait()
        await self.client.fetch(bucket, files, None, connections=connections)

    async def fingerprint(self, bucket: str | None, prefix: str) -> str:
        return await self.client.fingerprint(bucket, prefix)


async def test_all_jobs_that_wait_for_a_load_say_how_far_it_is(platform: Platform) -> None:
    engines = FakeEngines()
    engines.load_gate.clear()
    async with running(platform, engines, slots=2) as worker:
        loader = loader_of(worker)
        assert isinstance(loader.engram_client, EngramClient)
        loader.engram_client = engram = HalfwayEngram(loader.engram_client)
        job_ids = [await platform.submit("one", "tokens 1") for _ in range(2)]

        async def all_say(words: str) -> bool:
            jobs = [await platform.job(job_id) for job_id in job_ids]
            return all((job["status_message"] or "").startswith(words) for job in jobs)

        await eventually(lambda: all_say("loading model "), "the jobs say how far it is", 20)
        engram.may_go_on.set()
        await eventually(lambda: all_say("starting the engine"), "the engine starts", 20)
        engines.load_gate.set()
        for job_id in job_ids:
            await platform.completed(job_id)


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_worker_says_what_it_has_and_whether_it_wants_more(
    cortex: FakeCortex, start_worker: Any, *, wanted: bool
) -> None:
    async with start_worker(prefetch=wanted):
        if wanted:
            await cortex.until(
                lambda: any(b.wants_hints and b.cached_models for b in cortex.heartbeats)
            )
        await cortex.until(lambda: len(cortex.heartbeats) >= 3)
    told = {(model.family, model.version) for model in cortex.heartbeats[-1].cached_models}
    assert told == ({("tiny", "1"), ("small", "1"), ("big", "1")} if wanted else set())
    assert any(beat.wants_hints for beat in cortex.heartbeats) == wanted


async def test_models_take_turns_on_a_disk_that_holds_one_of_them(platform: Platform) -> None:
    engines = FakeEngines()
    room_for_one = 1.6 * SIZE / 2**30
    async with running(platform, engines, slots=2, cache_budget_gb=room_for_one) as worker:
        jobs = [await platform.submit(MODELS[n % 2], "tokens 2") for n in range(4)]
        for job_id in jobs:
            await platform.completed(job_id)
        cache = loader_of(worker).cache.artifacts
        held, entries = cache.usage(), cache.entries()

    assert held.held_bytes <= held.limit_bytes
    assert len(entries) == 1, "one made room for the other"
    assert {*engines.loads} == {"one:1", "two:1"}


async def test_a_job_whose_model_is_damaged_in_the_store_fails_and_says_so(
    platform: Platform,
) -> None:
    (stored,) = (platform.root / "engram").rglob("one/1/**/model.safetensors")
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(data)
    engines = FakeEngines()
    async with running(platform, engines, slots=1) as worker:
        job_id = await platform.submit("one", "tokens 2")
        await platform.http.get(f"/jobs/{job_id}/stream")
        job = await platform.job(job_id)
        artifacts = loader_of(worker).cache.artifacts
        left = list(artifacts.layout.partials.iterdir())

    assert job["status"] == "failed", job
    assert job["error"]["code"] == "artifact_corrupt"
    assert "model.safetensors" in job["error"]["message"]
    assert engines.loads == []
    assert left == []
