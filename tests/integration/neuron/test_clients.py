"""The worker's clients against real neighbours, up and down."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fake_cortex import FakeCortex

from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings
from mnemos.protocol.v1 import cortex_pb2 as pb
from neuron.clients.cortex_client import CortexClient
from neuron.clients.engram_client import EngramClient, RemoteFile
from neuron.clients.genome_client import GenomeClient
from neuron.errors import (
    ArtifactCorruptError,
    ConfigurationError,
    CortexUnavailableError,
    ModelNotFoundError,
    StorageUnavailableError,
)
from neuron.models.job import StreamChunk

BUCKET = "mnemos-models"


async def filled_store(server: Any) -> None:
    store = server.store()
    await store.ensure_bucket(BUCKET)
    await store.put_bytes(BUCKET, "llama/7b/config.json", b"{}")
    await store.put_bytes(BUCKET, "llama/7b/weights/a.bin", b"a" * 100_000)
    await store.put_bytes(BUCKET, "llama/7b-chat/config.json", b"other")


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}


async def test_a_model_comes_from_s3_and_its_neighbour_does_not(
    s3_server: Any, tmp_path: Path
) -> None:
    await filled_store(s3_server)
    client = EngramClient(s3_server.endpoint, s3_server.access_key, s3_server.secret_key)
    await client.health_check()

    await client.download_object("llama/7b", tmp_path)

    assert files_of(tmp_path) == {"config.json", "weights/a.bin"}
    with pytest.raises(ArtifactCorruptError):
        await client.download_files("llama/7b", [RemoteFile("absent", 1)], tmp_path)
    with pytest.raises(ArtifactCorruptError):
        await client.download_object("llama/8b", tmp_path)


async def test_wrong_keys_are_the_storages_refusal(s3_server: Any, tmp_path: Path) -> None:
    await filled_store(s3_server)
    client = EngramClient(s3_server.endpoint, s3_server.access_key, "wrong")

    with pytest.raises(StorageUnavailableError) as caught:
        await client.health_check()
    assert "wrong" not in str(caught.value)


def test_an_endpoint_that_cannot_be_is_the_operators_fault() -> None:
    with pytest.raises(ConfigurationError, match="NEURON_MINIO_ENDPOINT"):
        EngramClient("file://relative/dir", "", "")


async def test_genome_says_what_it_knows_and_what_not(tmp_path: Path) -> None:
    settings = GenomeSettings(data_dir=tmp_path, http_port=0)
    async with GenomeServer(settings) as genome:
        client = GenomeClient(genome.url, timeout=5)
        assert await client.health_check()
        with pytest.raises(ModelNotFoundError, match="llama"):
            await client.get_model("llama", "7b")

    with pytest.raises(StorageUnavailableError, match="GENOME"):
        await client.get_model("llama", "7b")
    assert not await client.health_check()
    await client.close()
    await client.close()


async def test_sending_into_a_stream_that_broke_unread_is_an_outage(cortex: FakeCortex) -> None:
    client = CortexClient(f"127.0.0.1:{cortex.port}", timeout=5)
    await client.connect()
    cortex.workers["wrk_1"] = pb.RegisterWorkerRequest()
    cortex.submit("job_1")
    cortex.cut_token_stream_after = 0
    channel = client.open_token_channel("wrk_1")
    chunk = StreamChunk(job_id="job_1", sequence=0, content="x")

    await channel.send([chunk])
    async with asyncio.timeout(10):
        await channel._call.code()  # the stream is over, and nobody has read why

    with pytest.raises(CortexUnavailableError):
        await channel.send([chunk])

    channel.close()
    await client.close()
