"""A line that breaks in the middle of a big file, to a real server, through a cutting proxy."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
from pydantic import SecretStr

from mnemos.engram.errors import StorageUnavailableError
from mnemos.engram.store import ObjectStore

BIG = 20_000_000
CUT_AFTER = 6_000_000


class Server(Protocol):
    endpoint: str
    access_key: str
    secret_key: str

    def store(self, url: str = "s3://") -> ObjectStore: ...


class CuttingProxy:
    """Passes bytes on; cuts a connection once it brought `cut_after` bytes, `cuts` times."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.partition(":")
        self._target = (host, int(port))
        self.cuts = 0
        self.closed = False

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            if self.closed:
                return
            remote_reader, remote_writer = await asyncio.open_connection(*self._target)
            with contextlib.closing(remote_writer), contextlib.suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, remote_writer, cuttable=False))
                    group.create_task(self._pump(remote_reader, writer, cuttable=True))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, cuttable: bool
    ) -> None:
        passed = 0
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
            passed += len(data)
            if cuttable and self.cuts and passed > CUT_AFTER:
                self.cuts -= 1
                writer.transport.abort()
                raise ConnectionAbortedError
        raise ConnectionAbortedError  # one side is done: end the other too


@pytest.fixture
async def big_object(s3_server: Server) -> bytes:
    """An object of several megabytes in the bucket `lines`."""
    data = os.urandom(BIG)
    store = s3_server.store()
    await store.ensure_bucket("lines")
    await store.put_bytes("lines", "big", data)
    return data


def through(endpoint: str, server: Server) -> ObjectStore:
    return ObjectStore.from_url(
        "s3://",
        endpoint=endpoint,
        access_key=server.access_key,
        secret_key=SecretStr(server.secret_key),
        secure=False,
    )


async def test_a_download_goes_on_where_the_line_broke(
    s3_server: Server, big_object: bytes, tmp_path: Path
) -> None:
    proxy = CuttingProxy(s3_server.endpoint)
    proxy.cuts = 2
    steps: list[int] = []
    async with proxy.listening() as endpoint:
        store = through(endpoint, s3_server)
        got = await store.download_file("lines", "big", tmp_path / "big", steps.append)
    assert proxy.cuts == 0
    assert got.sha256 == hashlib.sha256(big_object).hexdigest()
    assert sum(steps) == BIG


async def test_a_storage_that_goes_away_in_the_middle_leaves_nothing(
    s3_server: Server, big_object: bytes, tmp_path: Path
) -> None:
    proxy = CuttingProxy(s3_server.endpoint)
    proxy.cuts = 1

    def go_away(_count: int) -> None:
        proxy.closed = True

    folder = tmp_path / "out"
    async with proxy.listening() as endpoint:
        store = through(endpoint, s3_server)
        with pytest.raises(StorageUnavailableError) as caught:
            await store.download_file("lines", "big", folder / "big", go_away)
    assert caught.value.retryable
    assert caught.value.message.endswith(".")
    assert len(big_object) == BIG
    assert list(folder.iterdir()) == []
