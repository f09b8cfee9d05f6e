"""Keys in memory: known ones cost no query, others not many, old ones are not believed."""

from __future__ import annotations

from typing import Any

import pytest

from mnemos.bearer import bearer_of, hash_of, secret_in
from mnemos.cortex.errors import StorageUnavailableError
from mnemos.cortex.keys.directory import (
    MAX_AGE_SECONDS,
    UNKNOWN_SECONDS,
    AuthPolicy,
    KeyDirectory,
)
from mnemos.cortex.keys.records import ApiKey
from mnemos.cortex.notifier import LocalNotifier
from mnemos.cortex.principal import ANYONE, Principal


class Keys:
    """A store of keys that counts how often it is read, and can be away."""

    def __init__(self, *secrets: str) -> None:
        self.keys = [key_of(secret) for secret in secrets]
        self.reads = 0
        self.away = False

    async def list_keys(self) -> list[ApiKey]:
        self.reads += 1
        if self.away:
            raise StorageUnavailableError("The database is away.")
        return self.keys


def key_of(secret: str) -> ApiKey:
    return ApiKey(
        key_id=f"key_{secret}",
        name=secret,
        secret_hash=hash_of(secret),
        scopes=frozenset({"read"}),
        created_at=0,
    )


class Clock:
    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now


def directory_of(store: Any, clock: Clock, **policy: Any) -> KeyDirectory:
    return KeyDirectory(store, LocalNotifier(), AuthPolicy(**policy), clock=clock)


async def test_a_known_key_is_found_without_waiting_for_anything() -> None:
    store = Keys("alice")
    directory = directory_of(store, Clock())
    await directory.read()
    finding = directory.find("alice")
    with pytest.raises(StopIteration) as ended:
        finding.send(None)
    assert ended.value.value == store.keys[0]
    assert store.reads == 1


async def test_guesses_are_looked_up_seldom() -> None:
    store, clock = Keys("alice"), Clock()
    directory = directory_of(store, clock)
    await directory.read()
    for _ in range(100):
        assert await directory.find("guess") is None
    assert store.reads == 1
    store.keys.append(key_of("new"))
    clock.now += UNKNOWN_SECONDS + 0.1
    assert await directory.find("new") == store.keys[1]
    assert store.reads == 2


async def test_old_keys_are_not_believed() -> None:
    store, clock = Keys("alice"), Clock()
    directory = directory_of(store, clock)
    await directory.read()
    store.away = True
    clock.now += MAX_AGE_SECONDS - 1
    assert await directory.find("alice") is not None
    clock.now += 2
    with pytest.raises(StorageUnavailableError):
        await directory.find("alice")


async def test_keys_are_asked_for_once_there_are_some() -> None:
    store = Keys()
    directory = directory_of(store, Clock())
    await directory.read()
    before = directory.required
    store.keys.append(key_of("alice"))
    await directory.read()
    assert (before, directory.required) == (False, True)
    off, always = directory_of(store, Clock(), off=True), directory_of(store, Clock(), always=True)
    await off.read()
    assert (off.required, always.required) == (False, True)


async def test_the_operators_key_is_kept_nowhere() -> None:
    store = Keys()
    directory = directory_of(store, Clock(), always=True, admin_hash=hash_of("operator"))
    found = await directory.find("operator")
    assert isinstance(found, Principal)
    assert (found.key_id, found.may("admin")) == ("", True)
    assert (store.reads, directory.sole_admins) == (0, False)


def test_secrets_are_read_from_either_header() -> None:
    assert bearer_of("Bearer mk-a") == bearer_of("bearer  mk-a ") == "mk-a"
    assert bearer_of("Basic mk-a") is None
    assert bearer_of("Bearer ") is None
    assert secret_in([(b"x-api-key", b"a"), (b"authorization", b"Bearer b")]) == "b"
    assert secret_in([(b"authorization", b"Basic x"), (b"x-api-key", b"a")]) == "a"
    assert secret_in([(b"accept", b"Bearer b")]) is None


def test_names_belong_to_keys() -> None:
    user = Principal("key_1", "alice", frozenset({"submit"}))
    admin = Principal("key_2", "boss", frozenset({"admin"}))
    assert user.own_name("group") == "key_1:group"
    assert user.own_name("key_2:group") == "key_1:key_2:group"
    assert admin.own_name("group") == "key_2:group"
    assert admin.own_name("key_1:group") == "key_1:group"
    assert ANYONE.own_name("group") == "group"
    assert (user.sees("key_1"), user.sees("key_2"), user.sees("")) == (True, False, False)
    assert admin.sees("key_1")
