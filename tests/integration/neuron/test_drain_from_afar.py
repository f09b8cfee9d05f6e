"""A real CORTEX, real workers: `mnemos workers drain` with a deadline."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cortex_tools import Cortex, eventually, running_cortex
from fake_engine import FakeEngines

from mnemos.cli.main import cli
from mnemos.cortex.settings import CortexSettings
from neuron.config import Settings
from neuron.worker import NEURONWorker

NEVER_SECONDS = 300.0
"""What the workers themselves would allow: a test that waits for it has failed."""


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Cortex]:
    settings = CortexSettings(data_dir=tmp_path / "cortex", http_port=0, grpc_port=0)
    async with running_cortex(settings) as cortex:
        yield cortex


@asynccontextmanager
async def running_worker(
    cortex: Cortex, engines: FakeEngines, cache_dir: Path
) -> AsyncIterator[NEURONWorker]:
    settings = Settings(
        cortex_grpc_url=cortex.server.grpc_address,
        genome_http_url="http://127.0.0.1:9",
        minio_endpoint=f"file://{cache_dir.parent / 'engram'}",
        supported_runtimes="transformers",
        max_concurrent_jobs=4,
        heartbeat_interval=0.5,
        shutdown_timeout=NEVER_SECONDS,
        model_cache_dir=cache_dir,
        api_host="127.0.0.1",
        api_port=0,
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


async def mnemos(cortex: Cortex, *words: str) -> Result:
    environment = {"MNEMOS_CORTEX_URL": cortex.server.http_url}
    return await asyncio.to_thread(CliRunner(env=environment).invoke, cli, list(words))


async def the_worker(cortex: Cortex) -> str:
    [worker] = (await cortex.http.get("/api/v1/workers")).json()["workers"]
    return str(worker["worker_id"])


async def events(cortex: Cortex, job_id: str) -> list[dict[str, Any]]:
    page = await cortex.server.store.read_events(job_id, 0, 10_000)
    return [{"kind": line.kind, **json.loads(line.data)} for line in page.events]


async def text_of(cortex: Cortex, job_id: str) -> str:
    log = await events(cortex, job_id)
    return "".join(line["content"] for line in log if line["kind"] == "token")


async def test_a_worker_leaves_by_its_deadline_and_another_goes_on(
    real: Cortex, engines: FakeEngines, cache_dir: Path, tmp_path: Path
) -> None:
    job_id = await real.submit(
        input={"prompt": "flow", "parameters": {"max_tokens": 1_000_000, "stream": True}},
        retry_config={"max_retries": 0},
    )
    async with running_worker(real, engines, cache_dir):

        async def flows() -> bool:
            return len(await text_of(real, job_id)) > 40

        await eventually(flows, "tokens come")
        first = await the_worker(real)
        loop = asyncio.get_running_loop()
        asked = loop.time()
        drained = await mnemos(real, "workers", "drain", first, "--deadline", "3s")
        assert drained.exit_code == 0, drained.output
        assert "within 3.0s" in drained.stderr

        async def has_left() -> bool:
            return bool((await real.http.get("/api/v1/workers")).json()["workers"] == [])

        await eventually(has_left, "the worker said goodbye", 20)
        assert loop.time() - asked < NEVER_SECONDS / 10

    job = await real.job(job_id)
    assert (job["status"], job["retries_used"]) == ("pending", 0)
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["released"]
    had = await text_of(real, job_id)
    assert had.startswith("t0 t1 t2 ")

    async with running_worker(real, engines, cache_dir):

        async def goes_on() -> bool:
            return len(await text_of(real, job_id)) > len(had)

        await eventually(goes_on, "the second worker goes on")
        engines.go.set()

        async def is_done() -> bool:
            return bool((await real.job(job_id))["status"] == "completed")

        await eventually(is_done, "the job ends")

    job = await real.job(job_id)
    text = await text_of(real, job_id)
    assert text == job["result"] == "".join(f"t{n} " for n in range(text.count(" ")))
    assert job["output_metadata"]["resumed_tokens"] == had.count(" ")
    assert "restart" not in [line["kind"] for line in await events(real, job_id)]


async def test_a_nearer_deadline_from_afar_hastens_a_drain(
    real: Cortex, engines: FakeEngines, cache_dir: Path
) -> None:
    job_id = await real.submit(input={"prompt": "hang", "parameters": {}})
    async with running_worker(real, engines, cache_dir):

        async def runs() -> bool:
            return bool((await real.job(job_id))["status"] == "executing")

        await eventually(runs, "the job runs")
        worker_id = await the_worker(real)
        assert (await mnemos(real, "workers", "drain", worker_id)).exit_code == 0

        async def is_draining() -> bool:
            worker = (await real.http.get(f"/api/v1/workers/{worker_id}")).json()
            return bool(worker["status"] == "shutting_down")

        await eventually(is_draining, "the worker drains")
        assert (await real.job(job_id))["status"] == "executing"
        hastened = await mnemos(real, "workers", "drain", worker_id, "--deadline", "0")
        assert hastened.exit_code == 0, hastened.output

        async def is_back() -> bool:
            return bool((await real.job(job_id))["status"] == "pending")

        await eventually(is_back, "the job was handed back")


@pytest.mark.parametrize(
    ("value", "words"),
    [("soon", "is no duration"), ("2d", "86400 s at most"), ("-1", "is no duration")],
)
async def test_a_deadline_that_is_none_is_told_before_anything_is_asked(
    value: str, words: str
) -> None:
    environment = {"MNEMOS_CORTEX_URL": "http://127.0.0.1:9"}
    command = ["workers", "drain", "wrk_a", "--deadline", value]
    result = await asyncio.to_thread(CliRunner(env=environment).invoke, cli, command)
    assert result.exit_code == 2
    assert words in result.stderr
