"""The list of API keys."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ..errors import ConflictError
from ..keys.records import ApiKey
from ..notifier import KEYS_TOPIC
from ..principal import ADMIN
from ..state_machine import TERMINAL
from .engine import LOCK, Connection, Row, fields_of
from .many import TEXT, Among
from .transaction import Transaction

_ADD = """
INSERT INTO api_keys (key_id, name, secret_hash, scopes, weight, max_waiting_jobs,
    tokens_per_minute, created_at, disabled_at)
VALUES (:key_id, :name, :secret_hash, :scopes, :weight, :max_waiting_jobs,
    :tokens_per_minute, :created_at, :disabled_at)
ON CONFLICT DO NOTHING RETURNING key_id
"""
_CHANGE = """
UPDATE api_keys SET name = :name, scopes = :scopes, weight = :weight,
    max_waiting_jobs = :max_waiting_jobs, tokens_per_minute = :tokens_per_minute,
    disabled_at = :disabled_at
WHERE key_id = :key_id
"""
_REMOVE = "DELETE FROM api_keys WHERE key_id = :key_id"
_LIST = "SELECT * FROM api_keys ORDER BY seq"
_LOCKED = f"{_LIST} {LOCK}"
_ENDS = Among(
    """
SELECT jobs.job_id, jobs.status, job_results.output_metadata
FROM jobs LEFT JOIN job_results ON job_results.job_seq = jobs.seq WHERE jobs.job_id = ANY(:keys)
""",
    TEXT,
)
_TERMINAL = {state.value for state in TERMINAL}


def add(tx: Transaction, key: ApiKey, sole_admins: bool) -> None:
    """Keep a new key."""
    others = _locked(tx)
    _check_name(key, others)
    if sole_admins:
        _check_admin({**others, key.key_id: key})
    if tx.one(_ADD, _values(key)) is None:
        raise _taken(key.name)
    tx.topics.add(KEYS_TOPIC)


def change(
    tx: Transaction, key_id: str, changes: Mapping[str, Any], sole_admins: bool
) -> ApiKey | None:
    """Change fields of a key."""
    keys = _locked(tx)
    if key_id not in keys:
        return None
    changed = _changed(keys[key_id], changes, tx.now)
    _check_name(changed, keys)
    if sole_admins:
        _check_admin({**keys, key_id: changed})
    values = _values(changed)
    tx.run(_CHANGE, {name: values[name] for name in values if name not in _FIXED})
    tx.topics.add(KEYS_TOPIC)
    return changed


def remove(tx: Transaction, key_id: str, sole_admins: bool) -> bool:
    """Forget a key."""
    keys = _locked(tx)
    if keys.pop(key_id, None) is None:
        return False
    if sole_admins:
        _check_admin(keys)
    tx.run(_REMOVE, {"key_id": key_id})
    tx.topics.add(KEYS_TOPIC)
    return True


def list_all(db: Connection) -> list[ApiKey]:
    """Return all keys, oldest first."""
    return [_key(row) for row in db.execute(_LIST, {})]


def tokens_spent(db: Connection, job_ids: Collection[str]) -> dict[str, int | None]:
    """Return what those jobs used that have ended or are gone; None where it is not known."""
    spent: dict[str, int | None] = dict.fromkeys(job_ids)
    for row in db.among(_ENDS, job_ids, {}):
        if row["status"] not in _TERMINAL:
            del spent[row["job_id"]]
        elif row["output_metadata"] is not None:
            spent[row["job_id"]] = _tokens(json.loads(row["output_metadata"]))
        else:
            spent[row["job_id"]] = 0
    return spent


def _tokens(metadata: Mapping[str, Any]) -> int | None:
    drawn, prompt = metadata.get("tokens_generated"), metadata.get("prompt_tokens", 0)
    return drawn + prompt if isinstance(drawn, int) and isinstance(prompt, int) else None


_FIXED = ("secret_hash", "created_at")


def _locked(tx: Transaction) -> dict[str, ApiKey]:
    """All keys, which nobody else changes meanwhile."""
    return {key.key_id: key for key in map(_key, tx.all(_LOCKED, {}))}


def _changed(key: ApiKey, changes: Mapping[str, Any], now: float) -> ApiKey:
    fields = dict(changes)
    disabled = fields.pop("disabled", None)
    if disabled is not None:
        since = key.disabled_at if key.disabled_at is not None else now
        fields["disabled_at"] = since if disabled else None
    return replace(key, **fields)


def _check_name(key: ApiKey, keys: Mapping[str, ApiKey]) -> None:
    if any(other.name == key.name and other.key_id != key.key_id for other in keys.values()):
        raise _taken(key.name)


def _taken(name: str) -> ConflictError:
    return ConflictError(f"There is a key named {name} already.")


def _check_admin(keys: Mapping[str, ApiKey]) -> None:
    if keys and not any(ADMIN in key.scopes and key.disabled_at is None for key in keys.values()):
        raise ConflictError(
            "Then no key could change keys any more: first make one with the scope admin, "
            "or set CORTEX_ADMIN_KEY."
        )


def _values(key: ApiKey) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "secret_hash": key.secret_hash,
        "scopes": ",".join(sorted(key.scopes)),
        "weight": key.weight,
        "max_waiting_jobs": key.max_waiting_jobs,
        "tokens_per_minute": key.tokens_per_minute,
        "created_at": key.created_at,
        "disabled_at": key.disabled_at,
    }


def _key(row: Row) -> ApiKey:
    fields = fields_of(row)
    del fields["seq"]
    fields["scopes"] = frozenset(fields["scopes"].split(","))
    return ApiKey(**fields)
