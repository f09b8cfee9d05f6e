"""What every storage promises: run unchanged on a folder and on a real S3 server."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import resource
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mnemos.engram.errors import (
    BucketNotFoundError,
    InvalidKeyError,
    LocalDiskError,
    ObjectNotFoundError,
    StorageUnavailableError,
)
from mnemos.engram.files import CHUNK_BYTES

if TYPE_CHECKING:
    from .conftest import Place

BIG = 3 * CHUNK_BYTES + 12_345
ODD_KEYS = ["plain", "a/b/c.txt", "wéird näme/模型+%25&=.json", "a b/c#d?e", "ends.", "~x", "'q\"'"]
BAD_KEYS = ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a\\b", "a\0b", "a\nb",
            "x" * 1025, "y" * 256, "a/model#12", "."]  # fmt: skip


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    """A file of several chunks, the last one odd."""
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(BIG))
    return path


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("key", ODD_KEYS)
async def test_what_is_put_is_got_back(place: Place, key: str) -> None:
    await place.store.put_bytes(place.bucket, key, b"hello")
    assert await place.store.get_bytes(place.bucket, key) == b"hello"
    assert [info.key for info in await place.store.list(place.bucket)] == [key]


async def test_a_second_put_replaces_the_first(place: Place) -> None:
    await place.store.put_bytes(place.bucket, "k", b"one, and longer")
    await place.store.put_bytes(place.bucket, "k", b"two")
    assert await place.store.get_bytes(place.bucket, "k") == b"two"


async def test_head_tells_size_and_time(place: Place) -> None:
    await place.store.put_bytes(place.bucket, "k", b"12345")
    info = await place.store.head(place.bucket, "k")
    assert (info.key, info.size) == ("k", 5)
    assert abs(datetime.now(UTC) - info.last_modified) < timedelta(minutes=1)


async def test_an_empty_object_is_an_object(place: Place, tmp_path: Path) -> None:
    await place.store.put_bytes(place.bucket, "empty", b"")
    got = await place.store.download_file(place.bucket, "empty", tmp_path / "out")
    assert (got.size, got.sha256) == (0, sha256_of(b""))
    assert (tmp_path / "out").read_bytes() == b""


async def test_a_big_file_goes_up_and_comes_down_in_pieces(
    place: Place, big_file: Path, tmp_path: Path
) -> None:
    sent_steps: list[int] = []
    got_steps: list[int] = []
    sent = await place.store.upload_file(place.bucket, "m/big", big_file, sent_steps.append)
    target = tmp_path / "new" / "folder" / "big"
    got = await place.store.download_file(place.bucket, "m/big", target, got_steps.append)
    data = await asyncio.to_thread(big_file.read_bytes)
    assert sent == got
    assert (got.size, got.sha256) == (BIG, sha256_of(data))
    assert await asyncio.to_thread(target.read_bytes) == data
    assert sum(sent_steps) == sum(got_steps) == BIG
    assert len(sent_steps) > 2
    assert len(got_steps) > 2


async def test_a_prefix_means_a_folder(place: Place) -> None:
    for key in ("llama/7b/a", "llama/7b/sub/b", "llama/7b-chat/a", "llama/7b.txt"):
        await place.store.put_bytes(place.bucket, key, b"x")
    for prefix in ("llama/7b", "llama/7b/"):
        keys = [info.key for info in await place.store.list(place.bucket, prefix)]
        assert keys == ["llama/7b/a", "llama/7b/sub/b"]
    assert await place.store.list(place.bucket, "llama/7") == []
    assert len(await place.store.list(place.bucket)) == 4


async def test_delete_prefix_spares_the_neighbour(place: Place) -> None:
    for key in ("m/1/a", "m/1/b/c", "m/1-chat/a"):
        await place.store.put_bytes(place.bucket, key, b"x")
    assert await place.store.delete_prefix(place.bucket, "m/1") == 2
    assert [info.key for info in await place.store.list(place.bucket)] == ["m/1-chat/a"]


async def test_deleting_twice_is_no_error_and_the_bucket_stays(place: Place) -> None:
    await place.store.put_bytes(place.bucket, "deep/er/k", b"x")
    await place.store.delete(place.bucket, "deep/er/k")
    await place.store.delete(place.bucket, "deep/er/k")
    assert await place.store.list(place.bucket) == []
    await place.store.health(place.bucket)


async def test_a_missing_object_is_named(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError, match="no object 'nope'"):
        await place.store.get_bytes(place.bucket, "nope")
    with pytest.raises(ObjectNotFoundError):
        await place.store.head(place.bucket, "nope")
    with pytest.raises(ObjectNotFoundError):
        await place.store.download_file(place.bucket, "nope", tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_a_missing_bucket_is_named(place: Place, tmp_path: Path, big_file: Path) -> None:
    store = place.store
    with pytest.raises(BucketNotFoundError, match="no bucket 'not-there'"):
        await store.list("not-there")
    with pytest.raises(BucketNotFoundError):
        await store.get_bytes("not-there", "k")
    with pytest.raises(BucketNotFoundError):
        await store.head("not-there", "k")
    with pytest.raises(BucketNotFoundError):
        await store.put_bytes("not-there", "k", b"x")
    with pytest.raises(BucketNotFoundError):
        await store.upload_file("not-there", "k", big_file)
    with pytest.raises(BucketNotFoundError):
        await store.download_file("not-there", "k", tmp_path / "out")
    with pytest.raises(BucketNotFoundError):
        await store.delete("not-there", "k")
    with pytest.raises(BucketNotFoundError):
        await store.health("not-there")


async def test_ensuring_a_bucket_twice_keeps_what_is_in_it(place: Place) -> None:
    await place.store.put_bytes(place.bucket, "k", b"x")
    await place.store.ensure_bucket(place.bucket)
    assert await place.store.get_bytes(place.bucket, "k") == b"x"


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_a_key_never_leaves_its_bucket(place: Place, key: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidKeyError):
        await place.store.put_bytes(place.bucket, key, b"x")
    with pytest.raises(InvalidKeyError):
        await place.store.get_bytes(place.bucket, key)
    with pytest.raises(InvalidKeyError):
        await place.store.delete(place.bucket, key)
    with pytest.raises(InvalidKeyError):
        await place.store.delete_prefix(place.bucket, key)
    with pytest.raises(InvalidKeyError):
        await place.store.download_file(place.bucket, key, tmp_path / "out")


@pytest.mark.parametrize("bucket", ["", "..", "a", "../up", "Has-Capitals", "a/b", "x" * 64])
async def test_a_bucket_never_leaves_its_storage(place: Place, bucket: str) -> None:
    with pytest.raises(InvalidKeyError):
        await place.store.ensure_bucket(bucket)
    with pytest.raises(InvalidKeyError):
        await place.store.put_bytes(bucket, "k", b"x")


async def test_a_cancelled_download_leaves_nothing(
    place: Place, big_file: Path, tmp_path: Path
) -> None:
    await place.store.upload_file(place.bucket, "big", big_file)
    target = tmp_path / "out" / "big"
    target.parent.mkdir()
    target.write_bytes(b"what was there before")
    first_chunk = asyncio.Event()

    async def download() -> None:
        def on_bytes(_count: int) -> None:
            first_chunk.set()

        await place.store.download_file(place.bucket, "big", target, on_bytes)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(download())
        await first_chunk.wait()
        task.cancel()
    assert task.cancelled()
    assert [path.name for path in target.parent.iterdir()] == ["big"]
    assert target.read_bytes() == b"what was there before"


async def test_a_cancelled_upload_shows_nothing(place: Place, big_file: Path) -> None:
    first_chunk = asyncio.Event()

    async def upload() -> None:
        def on_bytes(_count: int) -> None:
            first_chunk.set()

        await place.store.upload_file(place.bucket, "half/big", big_file, on_bytes)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(upload())
        await first_chunk.wait()
        task.cancel()
    assert task.cancelled()
    assert await place.store.list(place.bucket) == []


async def test_a_file_that_cannot_be_read_is_not_the_storages_fault(
    place: Place, tmp_path: Path
) -> None:
    with pytest.raises(LocalDiskError) as caught:
        await place.store.upload_file(place.bucket, "k", tmp_path / "missing")
    assert caught.value.errno == errno.ENOENT
    assert await place.store.list(place.bucket) == []


async def test_an_upload_that_fails_in_the_middle_shows_nothing(
    place: Place, big_file: Path
) -> None:
    def refuse(_count: int) -> None:
        raise ZeroDivisionError("the caller's own trouble")

    with pytest.raises(ZeroDivisionError):
        await place.store.upload_file(place.bucket, "k", big_file, refuse)
    assert await place.store.list(place.bucket) == []


async def test_a_place_that_cannot_be_written_is_not_the_storages_fault(
    place: Place, big_file: Path, tmp_path: Path
) -> None:
    await place.store.upload_file(place.bucket, "big", big_file)
    with pytest.raises(LocalDiskError) as caught:
        await place.store.download_file(place.bucket, "big", big_file / "below-a-file")
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond a chunk: the nearest to a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_download_to_a_full_disk_leaves_nothing(
    place: Place, big_file: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    await place.store.upload_file(place.bucket, "big", big_file)
    request.getfixturevalue("full_disk")
    with pytest.raises(LocalDiskError, match="File too large") as caught:
        await place.store.download_file(place.bucket, "big", tmp_path / "out" / "big")
    assert caught.value.errno == errno.EFBIG
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("place", ["file"], indirect=True)
async def test_an_upload_to_a_full_disk_shows_nothing(
    place: Place, big_file: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("full_disk")
    with pytest.raises(StorageUnavailableError, match="File too large") as caught:
        await place.store.upload_file(place.bucket, "m/big", big_file)
    assert caught.value.retryable
    assert await place.store.list(place.bucket) == []


async def test_many_puts_and_deletes_at_once_do_not_hinder_each_other(place: Place) -> None:
    async def put_and_delete(number: int) -> None:
        key = f"shared/folder/{number % 3}/k{number}"
        await place.store.put_bytes(place.bucket, key, b"x")
        await place.store.delete(place.bucket, key)

    async with asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(put_and_delete(number))
    assert await place.store.list(place.bucket) == []
