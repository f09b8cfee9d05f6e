"""Asking GENOME which models there are, when a job is submitted."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote

import httpx2
import structlog

from .errors import CortexError
from .input_schema.checker import InputSchema

CACHE_SECONDS = 10.0
STALE_SECONDS = 600.0
"""So long an answer does when GENOME cannot be asked whether it still holds."""
AWAY_SECONDS = 1.0
"""After a failure GENOME is let alone this long, so that a batch does not wait for each job."""
MAX_CACHED = 1000
LIST_PAGE = 500

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """What a submission needs to know of a model."""

    family: str
    version: str
    runtime: str
    runtime_config: Mapping[str, Any] = field(default_factory=dict)
    """How the model is run on its runtime unless a job says otherwise."""
    min_memory_mb: int = 0
    min_gpu_memory_mb: int = 0
    input_schema: InputSchema | None = None
    """What its inputs must be."""


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A version that is registered; `created_at` is Unix time."""

    family: str
    version: str
    created_at: float


_Name = tuple[str, str | None]
"""A family, and a version or a tag."""


class ModelUnknownError(CortexError):
    """There is no such model; the message names what there is."""

    code = "model_not_found"


class CatalogUnavailableError(CortexError):
    """The catalogue cannot be asked now."""

    code = "unavailable"


class ModelCatalog(Protocol):
    """Knows which models there are."""

    async def find(self, family: str, version: str | None) -> CatalogModel:
        """Return the model that a version or a tag names, the newest version by default.

        Raises ModelUnknownError, CatalogUnavailableError.
        """


class ModelListing(ModelCatalog, Protocol):
    """Shows them as well."""

    async def describe(self, family: str, version: str | None) -> ListedModel:
        """Say which version is meant, and since when there is one. Raises as find() does."""

    async def list_models(self) -> list[ListedModel]:
        """Return every version of every model, the newest first.

        Raises CatalogUnavailableError.
        """


@dataclass(slots=True)
class _Known:
    """An answer, when it came, and what GENOME calls this state of it."""

    model: CatalogModel
    at: float
    etag: str | None


class GenomeCatalog:
    """A ModelCatalog that asks GENOME over HTTP, and remembers an answer for some seconds.

    Then GENOME is asked whether it still holds; while that is under way, or GENOME away, it does
    for a while. An async context manager; its timeouts are short because a submitter waits.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 3.0, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._client = httpx2.AsyncClient(timeout=timeout_seconds, headers=headers)
        self._away_until = 0.0
        self._known: dict[_Name, _Known] = {}
        self._asking: set[_Name] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def find(self, family: str, version: str | None) -> CatalogModel:
        """Return the model that a version or a tag names, the newest version by default."""
        name = (family, version)
        known = self._known.get(name)
        age = STALE_SECONDS if known is None else time.monotonic() - known.at
        if known is None or age >= STALE_SECONDS:
            return await self._ask(name, None)
        if age < CACHE_SECONDS or name in self._asking:
            return known.model
        self._asking.add(name)
        try:
            return await self._ask(name, known)
        except CatalogUnavailableError:
            return known.model
        finally:
            self._asking.discard(name)

    async def describe(self, family: str, version: str | None) -> ListedModel:
        """Say which version is meant, and since when there is one."""
        self._check_near()
        answer = await self._get((family, version), None)
        body = self._json(answer)
        if answer.status_code in (404, 422):  # a name that cannot be is a name of nothing
            raise ModelUnknownError(_message(body, family))
        return self._listed(body)

    async def list_models(self) -> list[ListedModel]:
        """Return every version of every model, the newest first."""
        found: list[ListedModel] = []
        cursor: str | None = None
        self._check_near()
        while True:
            try:
                answer = await self._client.get(
                    f"{self._url}/api/v1/models",
                    params={"limit": str(LIST_PAGE)} | ({"cursor": cursor} if cursor else {}),
                )
            except httpx2.HTTPError as error:
                raise self._away(error) from error
            body = self._json(answer)
            try:
                found += [self._listed(model) for model in body["models"]]
                cursor = body["next_cursor"]
            except (KeyError, TypeError) as error:
                raise self._unreadable() from error
            if not cursor:
                return found

    def _listed(self, body: Any) -> ListedModel:
        try:
            created = datetime.fromisoformat(body["created_at"]).timestamp()
            return ListedModel(_word(body["family"]), _word(body["version"]), created)
        except (KeyError, TypeError, ValueError) as error:
            raise self._unreadable() from error

    def _unreadable(self) -> CatalogUnavailableError:
        return CatalogUnavailableError(
            f"GENOME at {self._url} gave an answer that CORTEX cannot read."
        )

    def _check_near(self) -> None:
        if time.monotonic() < self._away_until:
            raise CatalogUnavailableError(f"GENOME cannot be reached at {self._url}.")

    def _json(self, answer: httpx2.Response) -> Any:
        if answer.status_code == 401:
            raise CatalogUnavailableError(
                f"GENOME at {self._url} asks for its token: set CORTEX_GENOME_TOKEN."
            )
        try:
            return answer.json()
        except ValueError as error:
            raise self._away(error) from error

    async def _ask(self, name: _Name, known: _Known | None) -> CatalogModel:
        self._check_near()
        answer = await self._get(name, known.etag if known else None)
        if known is not None and answer.status_code == 304:
            known.at = time.monotonic()
            return known.model
        body = self._json(answer)
        if answer.status_code == 404:
            self._known.pop(name, None)
            raise ModelUnknownError(_message(body, name[0]))
        model = _read_model(answer.status_code, body, self._url)
        if len(self._known) >= MAX_CACHED:
            self._known.clear()
        self._known[name] = _Known(model, time.monotonic(), answer.headers.get("etag"))
        return model

    async def _get(self, name: _Name, etag: str | None) -> httpx2.Response:
        family, version = name
        try:
            return await self._client.get(
                f"{self._url}/api/v1/models/{quote(family, safe='')}",
                params={} if version is None else {"version": version},
                headers={} if etag is None else {"if-none-match": etag},
            )
        except httpx2.HTTPError as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> CatalogUnavailableError:
        self._away_until = time.monotonic() + AWAY_SECONDS
        _log.warning("genome.unreachable", url=self._url, error=str(error))
        return CatalogUnavailableError(f"GENOME cannot be reached at {self._url}.")


def _message(body: Any, family: str) -> str:
    try:
        return str(body["error"]["message"])
    except (KeyError, TypeError):
        return f"There is no model {family}."


def _read_model(status: int, body: Any, url: str) -> CatalogModel:
    try:
        if status != 200:
            raise ValueError(status)
        runtime = body["runtime"]
        return CatalogModel(
            _word(body["family"]),
            _word(body["version"]),
            _word(runtime["type"]),
            dict(runtime.get("config") or {}),
            *_needs(body.get("requirements") or {}),
            _schema(body.get("input_schema")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CatalogUnavailableError(
            f"GENOME at {url} gave an answer that CORTEX cannot read."
        ) from error


def _needs(told: Mapping[str, Any]) -> tuple[int, int]:
    """Memory and GPU memory in MiB."""
    given = (told.get("min_ram_gb") or 0, told.get("min_gpu_memory_gb") or 0)
    memory_mb, gpu_memory_mb = (math.ceil(float(gib) * 1024) for gib in given)
    return memory_mb, gpu_memory_mb


def _schema(told: Any) -> InputSchema | None:
    if not told:
        return None
    if not isinstance(told, dict):
        raise ValueError(told)
    return InputSchema.of(told)


def _word(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", value):
        raise ValueError(value)
    return value
