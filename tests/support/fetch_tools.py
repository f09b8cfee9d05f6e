"""What the tests of fetching share: objects with random bytes, small limits, and proofs."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from object_server import ObjectServer

from mnemos.engram.fetch import Limits, WantedFile, fetch_files, journal_path
from mnemos.engram.store import ObjectStore

KIB = 1024
PART = 256 * KIB
BUFFER = 64 * KIB
QUICK = Limits(
    part_bytes=PART,
    buffer_bytes=BUFFER,
    sync_bytes=PART,
    stall_seconds=0.3,
    first_pause_seconds=0.002,
    longest_pause_seconds=0.01,
)
"""Small parts, so that small files have many of them; short pauses."""

PATIENT = replace(QUICK, stall_seconds=30.0)
BUCKET = "models"


def random_bytes(size: int, seed: int = 1) -> bytes:
    """Bytes that are the same for the same seed."""
    return random.Random(seed).randbytes(size)


def wanted(key: str, data: bytes, folder: Path) -> WantedFile:
    """A file that must come to a path named by its hash, as the cache asks for it."""
    sha256 = hashlib.sha256(data).hexdigest()
    return WantedFile(key, len(data), sha256, folder / sha256)


def store_on(server: ObjectServer) -> ObjectStore:
    """A store without keys on a server: URLs go unsigned."""
    return ObjectStore.from_url("s3://", endpoint=server.url)


def check_arrived(file: WantedFile, data: bytes) -> None:
    """Fail unless the file is there, whole, and its journal gone."""
    assert file.path.read_bytes() == data
    assert not journal_path(file.path).exists()


def check_no_threads() -> None:
    """Fail if a thread of a fetch is left."""
    assert not [each.name for each in threading.enumerate() if each.name.startswith("fetch")]


async def fetch_one(
    server: ObjectServer,
    data: bytes,
    folder: Path,
    *,
    limits: Limits = QUICK,
    connections: int = 4,
) -> WantedFile:
    """Put an object, fetch it, and fail unless it arrives right."""
    server.put(BUCKET, "m/weights", data)
    file = wanted("m/weights", data, folder)
    told: list[int] = []
    await fetch_files(
        store_on(server),
        BUCKET,
        [file],
        on_bytes=told.append,
        connections=connections,
        limits=limits,
    )
    check_arrived(file, data)
    assert sum(told) == len(data)
    return file


def asked(server: ObjectServer) -> Sequence[str | None]:
    """The ranges that were asked for, in order."""
    return [seen.headers.get("Range") for seen in server.seen]
