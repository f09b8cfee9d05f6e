"""Rows whose tensors lie on a real S3 server, up to a model's answer."""

from __future__ import annotations

import struct
from typing import Any, Protocol

import pytest
from pydantic import SecretStr

from mnemos.engram.store import ObjectStore
from neuron.clients.engram_client import EngramClient
from neuron.errors import InvalidInputError, StorageUnavailableError
from neuron.models.job import JobInput
from neuron.services.input_references import InputReferences

BUCKET = "mnemos-artifacts"
ROW = [0.5, -1.0, 2.0, 0.25]


class Server(Protocol):
    endpoint: str
    access_key: str
    secret_key: str

    def store(self, url: str = "s3://") -> ObjectStore: ...


@pytest.fixture
async def client(s3_server: Server) -> EngramClient:
    """A worker's storage that holds row.bin."""
    store = s3_server.store()
    await store.ensure_bucket(BUCKET)
    await store.put_bytes(BUCKET, "row.bin", struct.pack("<4f", *ROW))
    secret = SecretStr(s3_server.secret_key)
    return EngramClient(s3_server.endpoint, s3_server.access_key, secret)


def job(key: str, shape: list[int], bucket: str = BUCKET) -> JobInput:
    tensor = {"engram": f"{bucket}/{key}", "dtype": "float32", "shape": shape}
    return JobInput(inputs=[{"x": ROW}, {"x": tensor}])


async def test_a_row_in_engram_is_the_same_row(load: Any, client: EngramClient) -> None:
    runtime = await load("exported")
    resolved = await InputReferences(client, [BUCKET]).resolve(job("row.bin", [4]))
    sent, referred = (await runtime.execute(resolved)).result
    assert sent == referred


async def test_an_object_of_another_size_is_refused_with_both(
    load: Any, client: EngramClient
) -> None:
    await client.store.put_bytes(BUCKET, "short.bin", b"1234")
    runtime = await load("exported")
    resolved = await InputReferences(client, [BUCKET]).resolve(job("short.bin", [4]))
    with pytest.raises(InvalidInputError, match=r"inputs\[1\]\.x: .* got 4 bytes where \[4\] has"):
        await runtime.execute(resolved)


@pytest.mark.parametrize(("key", "bucket"), [("nothing.bin", BUCKET), ("row.bin", "no-such")])
async def test_what_s3_lacks_is_the_jobs_fault(client: EngramClient, key: str, bucket: str) -> None:
    references = InputReferences(client, [BUCKET, "no-such"])
    with pytest.raises(InvalidInputError) as caught:
        await references.resolve(job(key, [4], bucket))
    assert caught.value.message == f"inputs[1].x: ENGRAM holds no {bucket}/{key}"


async def test_keys_that_s3_refuses_are_the_operators_trouble(s3_server: Server) -> None:
    client = EngramClient(s3_server.endpoint, s3_server.access_key, "wrong")
    with pytest.raises(StorageUnavailableError):
        await InputReferences(client, [BUCKET]).resolve(job("row.bin", [4]))
