"""API keys in the store, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest

from mnemos.bearer import hash_of
from mnemos.cortex.errors import ConflictError
from mnemos.cortex.ids import new_id
from mnemos.cortex.keys.records import ApiKey
from mnemos.cortex.keys.secret import new_secret
from mnemos.cortex.store import Store


def a_key(name: str = "alice", **changes: Any) -> ApiKey:
    fields: dict[str, Any] = {
        "key_id": new_id("key"),
        "name": name,
        "secret_hash": hash_of(new_secret()),
        "scopes": frozenset({"submit", "read"}),
        "created_at": 5.0,
    }
    return ApiKey(**{**fields, **changes})


async def test_a_key_comes_back_as_it_was_kept(store: Store) -> None:
    one = a_key(weight=2.5, max_waiting_jobs=7, tokens_per_minute=100)
    other = a_key("bob")
    for key in (one, other):
        await store.keys.add_key(key, sole_admins=False)
    assert await store.keys.list_keys() == [one, other]


async def test_a_key_is_changed_disabled_and_enabled(store: Store) -> None:
    key = a_key(max_waiting_jobs=7)
    await store.keys.add_key(key, sole_admins=False)

    async def change(**changes: Any) -> ApiKey:
        changed = await store.keys.change_key(key.key_id, changes, sole_admins=False)
        assert changed is not None
        assert await store.keys.list_keys() == [changed]
        return changed

    changed = await change(weight=3.0, max_waiting_jobs=None, scopes=frozenset({"read"}))
    assert (changed.weight, changed.max_waiting_jobs, changed.scopes) == (
        3.0,
        None,
        frozenset({"read"}),
    )
    disabled = await change(disabled=True)
    assert disabled.disabled_at is not None
    assert (await change(disabled=True)).disabled_at == disabled.disabled_at
    assert (await change(disabled=False)).disabled_at is None


async def test_what_is_not_there_is_neither_changed_nor_removed(store: Store) -> None:
    assert await store.keys.change_key("key_none", {"weight": 1.0}, sole_admins=True) is None
    assert await store.keys.remove_key("key_none", sole_admins=True) is False


async def test_a_name_is_given_once(store: Store) -> None:
    await store.keys.add_key(a_key(), sole_admins=False)
    bob = a_key("bob")
    await store.keys.add_key(bob, sole_admins=False)
    with pytest.raises(ConflictError, match="alice"):
        await store.keys.add_key(a_key(), sole_admins=False)
    with pytest.raises(ConflictError, match="alice"):
        await store.keys.change_key(bob.key_id, {"name": "alice"}, sole_admins=False)


async def test_somebody_can_always_change_keys(store: Store) -> None:
    with pytest.raises(ConflictError, match="CORTEX_ADMIN_KEY"):
        await store.keys.add_key(a_key(), sole_admins=True)
    boss, user = a_key("boss", scopes=frozenset({"admin"})), a_key()
    for key in (boss, user):
        await store.keys.add_key(key, sole_admins=True)
    for change in ({"disabled": True}, {"scopes": frozenset({"read"})}):
        with pytest.raises(ConflictError, match="CORTEX_ADMIN_KEY"):
            await store.keys.change_key(boss.key_id, change, sole_admins=True)
    with pytest.raises(ConflictError, match="CORTEX_ADMIN_KEY"):
        await store.keys.remove_key(boss.key_id, sole_admins=True)
    assert await store.keys.remove_key(user.key_id, sole_admins=True)
    assert await store.keys.remove_key(boss.key_id, sole_admins=True)
    assert await store.keys.list_keys() == []
