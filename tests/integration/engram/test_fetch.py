"""What a fetch promises of every storage: one suite over a folder and a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest
from fetch_tools import (
    PART,
    PATIENT,
    check_arrived,
    check_no_threads,
    random_bytes,
    wanted,
)

from mnemos.engram.errors import (
    BucketNotFoundError,
    DamagedObjectError,
    InvalidKeyError,
    LocalDiskError,
    ObjectNotFoundError,
)
from mnemos.engram.fetch import WantedFile, fetch_files, journal_path
from mnemos.engram.store import ObjectStore


class Place(Protocol):
    kind: str
    store: ObjectStore
    bucket: str


@dataclass
class Model:
    """Objects that lie in a place, and where they shall come to."""

    place: Place
    files: list[WantedFile]
    data: list[bytes]
    told: list[int]

    async def fetch(self) -> None:
        await fetch_files(
            self.place.store,
            self.place.bucket,
            self.files,
            on_bytes=self.told.append,
            connections=4,
            limits=PATIENT,
        )

    def check(self) -> None:
        for file, data in zip(self.files, self.data, strict=True):
            check_arrived(file, data)
        assert sum(self.told) == sum(map(len, self.data))
        check_no_threads()


async def model_of(place: Place, folder: Path, objects: dict[str, bytes]) -> Model:
    await asyncio.to_thread(folder.mkdir)
    for key, data in objects.items():
        await place.store.put_bytes(place.bucket, key, data)
    files = [wanted(key, data, folder) for key, data in objects.items()]
    return Model(place, files, list(objects.values()), [])


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


SIZES = (0, 1, PART // 4, PART - 1, PART, PART + 1, 5 * PART + 17)


async def test_files_of_all_sizes_and_names_arrive(place: Place, tmp_path: Path) -> None:
    objects = {f"a model/größe +&#%{size} 模.bin": random_bytes(size, seed=size) for size in SIZES}
    model = await model_of(place, tmp_path / "out", objects)

    await model.fetch()

    model.check()
    assert names_in(tmp_path / "out") == {file.path.name for file in model.files}


async def test_what_has_come_is_on_the_disk(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    model = await model_of(place, tmp_path / "out", {"m/a": b"a", "m/b": random_bytes(3 * PART)})

    await model.fetch()

    assert {file.path.stat().st_ino for file in model.files} <= synced


async def test_hundreds_of_small_files_arrive(place: Place, tmp_path: Path) -> None:
    objects = {f"m/{number}": f"{number}".encode() * 50 for number in range(200)}
    model = await model_of(place, tmp_path / "out", objects)

    await model.fetch()

    model.check()


async def test_what_is_complete_is_only_proven_again(place: Place, tmp_path: Path) -> None:
    model = await model_of(place, tmp_path / "out", {"m/a": random_bytes(3 * PART), "m/b": b"b"})
    await model.fetch()
    for file in model.files:
        await place.store.delete(place.bucket, file.key)
    model.told.clear()

    await model.fetch()

    model.check()


async def test_damage_is_named_and_removed(place: Place, tmp_path: Path) -> None:
    data = random_bytes(3 * PART)
    model = await model_of(place, tmp_path / "out", {"m/a": data})
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    await place.store.put_bytes(place.bucket, "m/a", flipped)

    with pytest.raises(DamagedObjectError) as raised:
        await model.fetch()

    for told in ("m/a", model.files[0].sha256, hashlib.sha256(flipped).hexdigest()):
        assert told in raised.value.message
    assert names_in(tmp_path / "out") == set()
    check_no_threads()


@pytest.mark.parametrize("size", [PART - 1, 3 * PART])
async def test_an_object_of_another_size_is_damaged(
    place: Place, tmp_path: Path, size: int
) -> None:
    model = await model_of(place, tmp_path / "out", {"m/a": random_bytes(size)})
    for other in (size - 1, size + 1, 0):
        await place.store.put_bytes(place.bucket, "m/a", random_bytes(other))
        with pytest.raises(DamagedObjectError, match=r"m/a"):
            await model.fetch()


async def test_what_is_missing_is_named(place: Place, tmp_path: Path) -> None:
    model = await model_of(place, tmp_path / "out", {"m/a": b"a", "m/b": random_bytes(PART)})
    await place.store.delete(place.bucket, "m/b")
    with pytest.raises(ObjectNotFoundError, match="m/b"):
        await model.fetch()

    with pytest.raises(BucketNotFoundError, match="no-such-bucket"):
        await fetch_files(place.store, "no-such-bucket", model.files)
    with pytest.raises(InvalidKeyError):
        await fetch_files(place.store, place.bucket, [replace(model.files[0], key="../a")])
    check_no_threads()


async def test_a_disk_too_small_says_so_at_once(place: Place, tmp_path: Path) -> None:
    model = await model_of(place, tmp_path / "out", {"m/a": b"a"})
    model.files.append(WantedFile("m/huge", 1 << 60, "0" * 64, tmp_path / "out" / "huge"))

    with pytest.raises(LocalDiskError):
        await model.fetch()

    assert model.told == []


async def test_cancelled_it_ends_and_goes_on_where_it_was(place: Place, tmp_path: Path) -> None:
    size = 40 * PART
    model = await model_of(place, tmp_path / "out", {"m/a": random_bytes(size)})
    (file,) = model.files
    loop = asyncio.get_running_loop()
    some_came, may_go_on = asyncio.Event(), threading.Event()
    held: list[int] = []

    def hold(count: int) -> None:
        held.append(count)
        if sum(held) > size // 3:
            loop.call_soon_threadsafe(some_came.set)
            may_go_on.wait(30)

    async with asyncio.TaskGroup() as group:
        fetch = fetch_files(
            place.store,
            place.bucket,
            model.files,
            on_bytes=hold,
            connections=4,
            limits=PATIENT,
        )
        task = group.create_task(fetch)
        await some_came.wait()
        task.cancel()
        for _ in range(5):  # until the fetch itself has met the cancel
            await asyncio.sleep(0)
        may_go_on.set()

    check_no_threads()
    assert file.path.exists()
    assert journal_path(file.path).exists()
    fetched = sum(held)
    assert fetched < size

    async with asyncio.timeout(30):
        await model.fetch()

    model.check()
    assert model.told[0] == fetched, "all that was there is told first"


async def test_wrong_bytes_of_an_earlier_fetch_are_fetched_anew(
    place: Place, tmp_path: Path
) -> None:
    """A machine that died may have kept the journal and lost the bytes."""
    model = await model_of(place, tmp_path / "out", {"m/a": random_bytes(6 * PART)})
    (file,) = model.files
    await model.fetch()
    with file.path.open("r+b") as stream:
        stream.seek(PART + 5)
        stream.write(b"\0" * 100)
    model.told.clear()

    await model.fetch()

    model.check()
