"""The worker's clients against real neighbours, up and down."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fake_cortex import FakeCortex

from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings
from mnemos.protocol.v1 import cortex_pb2 as pb
from neuron.clients.cortex_client import CortexClient
from neuron.clients.engram_client import EngramClient, RemoteFile
from neuron.clients.genome_client import Answer, GenomeClient, RememberedAnswers
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


async def test_genome_sends_a_model_again_only_when_it_has_changed(tmp_path: Path) -> None:
    body: dict[str, Any] = {
        "family": "llama",
        "version": "7b",
        "artifact": {"format": "gguf"},
        "files": [{"path": "m.gguf", "size": 1, "sha256": "a" * 64}],
    }
    statuses: list[int] = []

    async def note(response: httpx2.Response) -> None:
        statuses.append(response.status_code)

    async with (
        GenomeServer(GenomeSettings(data_dir=tmp_path, http_port=0)) as genome,
        httpx2.AsyncClient(base_url=f"{genome.url}/api/v1/models", trust_env=False) as http,
    ):
        assert (await http.post(f"{genome.url}/api/v1/models", json=body)).status_code == 201
        client = GenomeClient(genome.url, timeout=5)
        await client.connect()
        assert client._client is not None
        client._client.event_hooks["response"].append(note)
        first = await client.get_model("llama", "7b")
        first["description"] = "changed by whoever asked"
        again = await client.get_model("llama", "7b")
        assert (again["description"], again["files"]) == ("", body["files"])
        await http.put("/llama", params={"version": "7b"}, json={"description": "new"})
        assert (await client.get_model("llama", "7b"))["description"] == "new"
        assert statuses == [200, 304, 200]
        await client.close()


def test_what_is_remembered_of_genome_is_bounded() -> None:
    memory = RememberedAnswers(limit_bytes=10)
    for number in range(5):
        memory.put(("llama", str(number)), Answer(str(number), b"1234"))
    assert [memory.get(("llama", str(n))) is not None for n in range(5)] == [False] * 3 + [True] * 2
    memory.get(("llama", "3"))
    memory.put(("llama", "5"), Answer("5", b"12"))
    memory.put(("llama", "6"), Answer("6", b"12"))
    assert [memory.get(("llama", n)) is not None for n in "3456"] == [True, False, True, True]
    memory.put(("llama", "big"), Answer("big", b"12345678901"))
    assert memory.get(("llama", "big")) is None
    memory.put(("llama", "7"), Answer("7", b"1234567890"))
    assert memory.get(("llama", "7")) == Answer("7", b"1234567890")


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
