"""Pushing to a real S3 server, and many readers and writers of one object."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from mnemos.engram.errors import ArtifactRefusedError
from mnemos.engram.files import CHUNK_BYTES, Expected
from mnemos.engram.publish import (
    WORTH_COPYING_BYTES,
    PushProgress,
    prepare,
    push_directory,
    upload,
)
from mnemos.engram.store import ObjectStore

if TYPE_CHECKING:
    from .conftest import Place


class Server(Protocol):
    def store(self, url: str = "s3://") -> ObjectStore: ...


def make_model(folder: Path) -> Path:
    folder.mkdir()
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + b"1234"
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    return folder


async def test_a_pushed_folder_comes_back_file_by_file(s3_server: Server, tmp_path: Path) -> None:
    store = s3_server.store(f"s3://models-{uuid.uuid4().hex[:12]}")
    folder = await asyncio.to_thread(make_model, tmp_path / "model")
    body = await push_directory(store, folder, "tiny", "1")
    assert body["artifact"]["bucket"] == store.models_bucket
    for file in body["files"]:
        key = f"{body['artifact_path']}/{file['path']}"
        got = await store.download_file(store.models_bucket, key, tmp_path / "back" / file["path"])
        assert (got.size, got.sha256) == (file["size"], file["sha256"])
    await push_directory(store, folder, "tiny", "1", exclude=["config.json"])
    left = await store.list(store.models_bucket, "tiny/1")
    assert len(left) == 3, "the first push's objects and those of the second"


async def test_a_changed_file_is_never_stored_however_large(
    s3_server: Server, tmp_path: Path
) -> None:
    store = s3_server.store()
    bucket = f"test-{uuid.uuid4().hex[:20]}"
    await store.ensure_bucket(bucket)
    path = tmp_path / "large"
    data = bytes(CHUNK_BYTES) + b"end"
    await asyncio.to_thread(path.write_bytes, data[:-1] + b"?")
    expected = Expected("large", len(data), hashlib.sha256(data).hexdigest())
    with pytest.raises(ArtifactRefusedError, match="large changed"):
        await store.upload_file(bucket, "large", path, expected=expected)
    assert await store.list(bucket) == []
    await asyncio.to_thread(path.write_bytes, data)
    await store.upload_file(bucket, "large", path, expected=expected)
    assert (await store.head(bucket, "large")).size == len(data)


async def test_pieces_of_any_size_become_one_object(place: Place) -> None:
    data = bytes(range(256)) * 4096 * 9

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 700_001):
            yield data[start : start + 700_001]

    await place.store.upload_stream(place.bucket, "joined", pieces())
    assert await place.store.get_bytes(place.bucket, "joined") == data


async def test_a_reader_sees_one_version_or_the_other_and_never_a_mixture(place: Place) -> None:
    versions = [bytes([number]) * 300_000 for number in range(4)]
    await place.store.put_bytes(place.bucket, "k", versions[0])
    seen: list[bytes] = []

    async def write(data: bytes) -> None:
        for _ in range(3):
            await place.store.put_bytes(place.bucket, "k", data)

    async def read() -> None:
        for _ in range(6):
            seen.append(await place.store.get_bytes(place.bucket, "k"))  # noqa: PERF401 - it awaits

    async with asyncio.TaskGroup() as group:
        for data in versions:
            group.create_task(write(data))
        for _ in range(3):
            group.create_task(read())
    assert len(seen) == 18
    assert all(data in versions for data in seen)


async def test_a_file_that_the_storage_has_is_not_sent_again(
    s3_server: Server, tmp_path: Path
) -> None:
    store = s3_server.store(f"s3://models-{uuid.uuid4().hex[:12]}")
    folder = await asyncio.to_thread(make_model, tmp_path / "model")
    big = folder / "tokenizer.txt"
    await asyncio.to_thread(big.write_bytes, b"x" * WORTH_COPYING_BYTES)
    prepared = await prepare(folder)
    await upload(store, prepared, "tiny/1")
    (sha256,) = [file.sha256 for file in prepared.manifest.files if file.path == big.name]
    other = b"y" * WORTH_COPYING_BYTES
    await store.put_bytes(store.models_bucket, "tiny/other", other)
    sent: list[PushProgress] = []
    known = {sha256: "tiny/other"}
    await upload(store, prepared, "tiny/2", known=known, on_progress=sent.append)
    copied = await store.get_bytes(store.models_bucket, f"tiny/2/{big.name}")
    assert copied == other, "it is the storage's object and not the file that was taken"
    assert sent[-1].done_bytes == prepared.manifest.size_bytes
    await upload(store, prepared, "tiny/3", known={sha256: "tiny/none"})
    assert await store.get_bytes(store.models_bucket, f"tiny/3/{big.name}") != other
    await upload(store, prepared, "tiny/2", known=known, anew=True)
    assert await store.get_bytes(store.models_bucket, f"tiny/2/{big.name}") != other
