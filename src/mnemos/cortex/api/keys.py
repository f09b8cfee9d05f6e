"""Routes for API keys; all of them take the scope `admin`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from mnemos.bearer import hash_of
from mnemos.http import ApiError

from ..clock import as_text, steady_clock
from ..ids import new_id
from ..keys.directory import KeyDirectory
from ..keys.records import ApiKey
from ..keys.secret import new_secret
from . import documents
from .context import ApiContext, Cortex
from .schemas import Name
from .views import json_response

router = APIRouter(prefix="/keys", tags=["keys"])
_now = steady_clock()

Scope = Literal["submit", "read", "admin", "worker"]
Scopes = Annotated[list[Scope], Field(min_length=1)]
Weight = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Limit = Annotated[int, Field(strict=True, ge=1, le=10**12)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewKey(_Body):
    """What a new key may do, and how much of it."""

    name: Name
    scopes: Scopes = Field(default=["submit", "read"])
    weight: Weight = Field(default=1.0, description="Its share against others' keys.")
    max_waiting_jobs: Limit | None = Field(default=None, description="None: no limit.")
    tokens_per_minute: Limit | None = Field(default=None, description="None: no limit.")


class KeyChanges(_Body):
    """What shall be different; what is not given stays as it is."""

    name: Name = ""
    scopes: Scopes = Field(default=["read"])
    weight: Weight = 1.0
    max_waiting_jobs: Limit | None = None
    tokens_per_minute: Limit | None = None
    disabled: bool = Field(default=False, strict=True)


class KeyView(BaseModel):
    """A key, without its secret."""

    key_id: str
    name: str
    scopes: list[str]
    weight: float
    max_waiting_jobs: int | None
    tokens_per_minute: int | None
    created_at: str
    disabled_at: str | None


class CreatedKey(KeyView):
    """A new key: its secret is told this once."""

    secret: str


class KeyList(BaseModel):
    """All keys, oldest first."""

    keys: list[KeyView]


class DeletedKey(BaseModel):
    """The key that is gone."""

    key_id: str
    deleted: bool


@router.post(
    "",
    status_code=201,
    summary="Make a key",
    response_model=CreatedKey,
    responses=documents.errors(409, 422, 503),
)
async def create_key(wanted: NewKey, cortex: Cortex) -> Response:
    """Make a key; the answer is the only one that has its secret."""
    directory = _directory(cortex)
    secret = new_secret()
    fields = wanted.model_dump(exclude={"scopes"})
    key = ApiKey(
        key_id=new_id("key"),
        secret_hash=hash_of(secret),
        scopes=frozenset(wanted.scopes),
        created_at=_now(),
        **fields,
    )
    await directory.store.add_key(key, sole_admins=directory.sole_admins)
    await directory.read()
    return json_response({**_view(key), "secret": secret}, 201)


@router.get("", summary="List keys", response_model=KeyList, responses=documents.errors(503))
async def list_keys(cortex: Cortex) -> Response:
    """All keys, oldest first."""
    keys = await _directory(cortex).store.list_keys()
    return json_response({"keys": [_view(key) for key in keys]})


@router.get(
    "/{key}", summary="Show a key", response_model=KeyView, responses=documents.errors(404, 503)
)
async def get_key(key: str, cortex: Cortex) -> Response:
    """A key, by its id or its name."""
    return json_response(_view(await _find(_directory(cortex), key)))


@router.patch(
    "/{key}",
    summary="Change a key",
    response_model=KeyView,
    responses=documents.errors(404, 409, 422, 503),
)
async def change_key(key: str, wanted: KeyChanges, cortex: Cortex) -> Response:
    """Change what is given of a key; a disabled one admits nobody until it is enabled again."""
    directory = _directory(cortex)
    found = await _find(directory, key)
    changes: dict[str, Any] = wanted.model_dump(include=wanted.model_fields_set)
    if "scopes" in changes:
        changes["scopes"] = frozenset(changes["scopes"])
    changed = await directory.store.change_key(
        found.key_id, changes, sole_admins=directory.sole_admins
    )
    if changed is None:
        raise _not_found(key)
    await directory.read()
    return json_response(_view(changed))


@router.delete(
    "/{key}",
    summary="Delete a key",
    response_model=DeletedKey,
    responses=documents.errors(404, 409, 503),
)
async def delete_key(key: str, cortex: Cortex) -> Response:
    """Forget a key. Its jobs go on; only admins see them from then on."""
    directory = _directory(cortex)
    found = await _find(directory, key)
    if not await directory.store.remove_key(found.key_id, sole_admins=directory.sole_admins):
        raise _not_found(key)
    await directory.read()
    return json_response({"key_id": found.key_id, "deleted": True})


def _directory(cortex: ApiContext) -> KeyDirectory:
    if cortex.keys is None:
        raise ApiError(404, "not_found", "This CORTEX keeps no keys.")
    return cortex.keys


async def _find(directory: KeyDirectory, named: str) -> ApiKey:
    for key in await directory.store.list_keys():
        if named in (key.key_id, key.name):
            return key
    raise _not_found(named)


def _not_found(named: str) -> ApiError:
    return ApiError(404, "key_not_found", f"There is no API key {named[:128]}.")


def _view(key: ApiKey) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "weight": key.weight,
        "max_waiting_jobs": key.max_waiting_jobs,
        "tokens_per_minute": key.tokens_per_minute,
        "created_at": as_text(key.created_at),
        "disabled_at": as_text(key.disabled_at),
    }
