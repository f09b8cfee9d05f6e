"""Asking GENOME which models there are, when a job is submitted."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote

import httpx2
import structlog

from .errors import CortexError

CACHE_SECONDS = 10.0
AWAY_SECONDS = 1.0
"""After a failure GENOME is let alone this long, so that a batch does not wait for each job."""
MAX_CACHED = 1000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """What a submission needs to know of a model."""

    family: str
    version: str
    runtime: str
    runtime_config: Mapping[str, Any] = field(default_factory=dict)
    """How the model is run on its runtime unless a job says otherwise."""


class ModelUnknownError(CortexError):
    """There is no such model; the message names what there is."""

    code = "model_not_found"


class CatalogUnavailableError(CortexError):
    """The catalogue cannot be asked now."""

    code = "unavailable"


class ModelCatalog(Protocol):
    """Knows which models there are."""

    async def find(self, family: str, version: str | None) -> CatalogModel:
        """Return a model, the newest version by default.

        Raises ModelUnknownError, CatalogUnavailableError.
        """


class GenomeCatalog:
    """A ModelCatalog that asks GENOME over HTTP, and remembers an answer for some seconds.

    An async context manager; its timeouts are short because a submitter waits.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 3.0) -> None:
        self._url = url.rstrip("/")
        self._client = httpx2.AsyncClient(timeout=timeout_seconds)
        self._away_until = 0.0
        self._known: dict[tuple[str, str | None], tuple[float, CatalogModel]] = {}

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
        """Return a model, the newest version by default."""
        key = (family, version)
        known = self._known.get(key)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        if time.monotonic() < self._away_until:
            raise CatalogUnavailableError(f"GENOME cannot be reached at {self._url}.")
        model = await self._ask(family, version)
        if len(self._known) >= MAX_CACHED:
            self._known.clear()
        self._known[key] = (time.monotonic() + CACHE_SECONDS, model)
        return model

    async def _ask(self, family: str, version: str | None) -> CatalogModel:
        parameters = {} if version is None else {"version": version}
        try:
            answer = await self._client.get(
                f"{self._url}/api/v1/models/{quote(family, safe='')}", params=parameters
            )
            body: Any = answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            self._away_until = time.monotonic() + AWAY_SECONDS
            _log.warning("genome.unreachable", url=self._url, error=str(error))
            raise CatalogUnavailableError(f"GENOME cannot be reached at {self._url}.") from error
        if answer.status_code == 404:
            raise ModelUnknownError(_message(body, family))
        return _read_model(answer.status_code, body, self._url)


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
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CatalogUnavailableError(
            f"GENOME at {url} gave an answer that CORTEX cannot read."
        ) from error


def _word(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", value):
        raise ValueError(value)
    return value
