"""A job for a model that nobody vouches for: one attempt, one sentence, no byte downloaded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec

from mnemos.cortex.server import CortexServer
from mnemos.cortex.settings import CortexSettings
from mnemos.engram.publish import push_directory
from mnemos.engram.store import ObjectStore
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings
from neuron.config import Settings
from neuron.worker import NEURONWorker


def make_model(folder: Path) -> Path:
    folder.mkdir()
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + b"1234"
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    return folder


def make_public_key(path: Path) -> Path:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    path.write_bytes(public.public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo))
    return path


async def test_an_untrusted_model_ends_its_jobs_at_once(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(make_model, tmp_path / "model")
    key = await asyncio.to_thread(make_public_key, tmp_path / "key.pub")
    engram = (tmp_path / "engram").as_uri()
    body = await push_directory(ObjectStore.from_url(engram), folder, "tiny", "1")
    async with (
        GenomeServer(GenomeSettings(data_dir=tmp_path / "genome", http_port=0)) as genome,
        CortexServer(
            CortexSettings(
                data_dir=tmp_path / "cortex", http_port=0, grpc_port=0, genome_url=genome.url
            )
        ) as cortex,
        httpx2.AsyncClient(timeout=30) as http,
    ):
        await http.post(f"{genome.url}/api/v1/models", json=body)
        worker = NEURONWorker(
            Settings(
                cortex_grpc_url=f"127.0.0.1:{cortex.grpc_port}",
                genome_http_url=genome.url,
                minio_endpoint=engram,
                supported_runtimes="transformers",
                model_cache_dir=tmp_path / "cache",
                api_host="127.0.0.1",
                api_port=0,
                require_signatures=True,
                signature_keys=str(key),
            )
        )
        jobs = f"http://127.0.0.1:{cortex.http_port}/api/v1/jobs"
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.start())
            try:
                job = await ended(http, jobs)
            finally:
                worker.request_stop("the test ended")
    assert job["status"] == "failed", job
    assert job["error"]["code"] == "artifact_corrupt"
    assert "tiny:1 is not signed" in job["error"]["message"]
    assert len(job["attempts"]) == 1, "it is not tried again"
    assert not list((tmp_path / "cache").rglob("model.safetensors"))


async def ended(http: httpx2.AsyncClient, jobs: str) -> dict[str, Any]:
    answer = await http.post(
        jobs,
        json={
            "model": {"family": "tiny", "version": "1", "runtime": "transformers"},
            "input": {"prompt": "hello"},
            "retry_config": {"max_retries": 3},
        },
    )
    job_id = answer.json()["job_id"]
    async with asyncio.timeout(60):
        # The stream closes when the job has ended, so there is nothing to poll.
        await http.get(f"{jobs}/{job_id}/stream", timeout=60)
    job: dict[str, Any] = (await http.get(f"{jobs}/{job_id}")).json()
    return job
