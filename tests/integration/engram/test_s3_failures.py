"""What a real S3 server refuses, told in one sentence each; and what happens when it is gone."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from pydantic import SecretStr

from mnemos.engram.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    EngramError,
    StorageUnavailableError,
)
from mnemos.engram.store import ObjectStore

REFUSAL_SECONDS = 5.0


class Server(Protocol):
    endpoint: str
    access_key: str
    secret_key: str

    def store(self, url: str = "s3://") -> ObjectStore: ...


MakeStore = Callable[..., ObjectStore]


@pytest.fixture
def make_store(s3_server: Server) -> MakeStore:
    """Build a store on the real server, with something wrong about it."""

    def make(*, access_key: str | None = None, secret_key: str | None = None) -> ObjectStore:
        return ObjectStore.from_url(
            "s3://",
            endpoint=s3_server.endpoint,
            access_key=access_key or s3_server.access_key,
            secret_key=SecretStr(secret_key or s3_server.secret_key),
            secure=False,
        )

    return make


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield int(listener.getsockname()[1])


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def every_refusal(store: ObjectStore, path: Path) -> list[EngramError]:
    """Call everything; return what each call raised."""
    calls: list[Callable[[], Awaitable[object]]] = [
        partial(store.ensure_bucket, "some-bucket"),
        partial(store.list, "ready"),
        partial(store.head, "ready", "ready"),
        partial(store.get_bytes, "ready", "ready"),
        partial(store.download_file, "ready", "ready", path),
        partial(store.put_bytes, "ready", "k", b"x"),
        partial(store.delete, "ready", "ready"),
        partial(store.health, "ready"),
    ]
    raised = []
    for call in calls:
        with pytest.raises(EngramError) as caught:
            await call()
        raised.append(caught.value)
    return raised


def assert_clear(error: EngramError) -> None:
    assert error.message.endswith(".")
    assert "\n" not in error.message
    assert "<" not in error.message
    assert len(error.message) < 200


async def test_a_wrong_secret_key_is_told_by_every_call(
    make_store: MakeStore, tmp_path: Path
) -> None:
    for error in await every_refusal(make_store(secret_key="wrong-secret"), tmp_path / "out"):
        assert isinstance(error, AccessDeniedError)
        assert not error.retryable
        assert "wrong-secret" not in error.message
        assert_clear(error)
    assert not (tmp_path / "out").exists()


async def test_an_unknown_access_key_is_told(make_store: MakeStore) -> None:
    with pytest.raises(AccessDeniedError, match="the access key is unknown") as caught:
        await make_store(access_key="nobody").list("ready")
    assert_clear(caught.value)
    with pytest.raises(AccessDeniedError, match="the secret key does not fit"):
        await make_store(secret_key="nothing").list("ready")


async def test_a_server_that_is_down_is_told_by_every_call_soon(tmp_path: Path) -> None:
    store = ObjectStore.from_url(
        "s3://",
        endpoint=f"127.0.0.1:{closed_port()}",
        access_key="k",
        secret_key=SecretStr("s"),
        secure=False,
    )
    for error in await every_refusal(store, tmp_path / "out"):
        assert isinstance(error, StorageUnavailableError)
        assert error.retryable
        assert "cannot be reached" in error.message
        assert_clear(error)


async def test_health_does_not_wait_for_a_silent_server(silent_port: int) -> None:
    store = ObjectStore.from_url(
        "s3://",
        endpoint=f"127.0.0.1:{silent_port}",
        access_key="k",
        secret_key=SecretStr("s"),
        secure=False,
    )
    started = time.monotonic()
    with pytest.raises(StorageUnavailableError, match="did not answer within"):
        await store.health(timeout_seconds=0.5)
    assert time.monotonic() - started < REFUSAL_SECONDS


async def test_cancelling_a_call_to_a_silent_server_is_immediate(silent_port: int) -> None:
    store = ObjectStore.from_url(
        "s3://",
        endpoint=f"http://127.0.0.1:{silent_port}",
        access_key="k",
        secret_key=SecretStr("s"),
    )
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await store.get_bytes("bucket", "k")
    assert time.monotonic() - started < 2


async def test_the_models_bucket_of_the_url_is_used(s3_server: Server) -> None:
    store = s3_server.store("s3://our-own-models")
    with pytest.raises(BucketNotFoundError, match="our-own-models"):
        await store.health()
    await store.ensure_bucket(store.models_bucket)
    await store.health()


async def test_many_ensure_the_same_bucket_at_once(s3_server: Server) -> None:
    store = s3_server.store()
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(store.ensure_bucket("wanted-by-many"))
    await store.health("wanted-by-many")


async def test_without_keys_every_call_is_denied_at_once(
    s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    store = ObjectStore.from_url("s3://", endpoint=s3_server.endpoint, secure=False)
    started = time.monotonic()
    for error in await every_refusal(store, tmp_path / "out"):
        assert isinstance(error, AccessDeniedError), error
        assert_clear(error)
    assert time.monotonic() - started < REFUSAL_SECONDS
