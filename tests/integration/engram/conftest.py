"""Both kinds of storage, for one behaviour suite."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from mnemos.engram.store import ObjectStore


@dataclass(frozen=True)
class Place:
    """A store with a bucket that only one test uses."""

    kind: str
    store: ObjectStore
    bucket: str


class Server(Protocol):
    def store(self, url: str = "s3://") -> ObjectStore: ...


@pytest.fixture(params=["file", "s3"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty bucket on a folder, then on a real S3 server."""
    kind: str = request.param
    if kind == "s3":
        server: Server = request.getfixturevalue("s3_server")
        store = server.store()
    else:
        store = ObjectStore.from_url((tmp_path / "storage").as_uri())
    bucket = f"test-{uuid.uuid4().hex[:20]}"
    await store.ensure_bucket(bucket)
    return Place(kind, store, bucket)
