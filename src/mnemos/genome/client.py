"""Speaks to GENOME over HTTP; every answer is checked before it is believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
from pydantic import BaseModel, ValidationError

from .answers import (
    FamilyVersions,
    Model,
    ModelPage,
    ValidationReport,
    VersionOrder,
    VersionTag,
    VersionTags,
)
from .checks import GIVEN_OUT
from .errors import (
    GenomeError,
    GenomeUnavailableError,
    InvalidModelError,
    ModelChangedError,
    ModelConflictError,
    ModelNotFoundError,
    NotLetInError,
    TagNotFoundError,
)

CALL_SECONDS = 30.0
CONNECT_SECONDS = 5.0

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_ERRORS: dict[str, type[GenomeError]] = {
    "model_not_found": ModelNotFoundError,
    "tag_not_found": TagNotFoundError,
    "precondition_failed": ModelChangedError,
    "conflict": ModelConflictError,
    "unavailable": GenomeUnavailableError,
    "unauthorized": NotLetInError,
}

Answer = TypeVar("Answer", bound=BaseModel)


class Registration(NamedTuple):
    """A registered model, and whether this call changed anything."""

    model: Model
    created: bool


class GenomeClient:
    """An async context manager that owns one pool of connections.

    Every call raises GenomeError only: GenomeUnavailableError when nobody sensible answers, and
    otherwise what GENOME said, in its words. Cancelling a call closes its connection.
    """

    def __init__(
        self, url: str, timeout_seconds: float = CALL_SECONDS, *, token: str | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidModelError(f"{url!r} is no address of GENOME.", "url")
        self.url = url.rstrip("/")
        self._pool = httpx2.AsyncClient(
            base_url=self.url,
            headers={} if token is None else {"authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds)),
            # A proxy that the environment names cannot know this machine's own addresses.
            trust_env=parts.hostname not in _LOOPBACK,
        )

    async def __aenter__(self) -> Self:
        """Return at once; the first call connects."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the pool."""
        await self._pool.aclose()

    async def register(self, body: Mapping[str, Any], *, replace: bool = False) -> Registration:
        """Register a version; ModelConflictError if it exists with other content."""
        params = {"replace": "true"} if replace else None
        answer = await self._send("POST", "/api/v1/models", body=body, params=params)
        return Registration(self._read(Model, answer), created=answer.status_code == 201)

    async def get(self, family: str, version: str | None = None) -> Model:
        """Return a version, named itself or by a version tag; `latest` by default."""
        answer = await self._send("GET", _path(family), params=_version(version))
        return self._read(Model, answer)

    async def list(
        self, *, limit: int = 50, cursor: str | None = None, **filters: str | None
    ) -> ModelPage:
        """Return one page of models, newest first.

        `filters` are the API's: family, tag (a label), version_tag, format, runtime, q, total.
        """
        params = _given(limit=str(limit), cursor=cursor, **filters)
        return self._read(ModelPage, await self._send("GET", "/api/v1/models", params=params))

    async def versions(
        self,
        family: str,
        *,
        sort: VersionOrder = "newest",
        limit: int = 500,
        cursor: str | None = None,
    ) -> FamilyVersions:
        """Return one page of a family's versions."""
        params = _given(sort=sort, limit=str(limit), cursor=cursor)
        answer = await self._send("GET", f"{_path(family)}/versions", params=params)
        return self._read(FamilyVersions, answer)

    async def update(self, family: str, version: str, changes: Mapping[str, Any]) -> Model:
        """Change what is said about a version."""
        answer = await self._send("PUT", _path(family), body=changes, params=_version(version))
        return self._read(Model, answer)

    async def delete(self, family: str, version: str, *, force: bool = False) -> None:
        """Forget a version; its files stay in ENGRAM.

        ModelConflictError while a version tag points to it, unless `force`: they go with it.
        """
        params = _given(version=version, force="true" if force else None)
        await self._send("DELETE", _path(family), params=params)

    async def tags(self, family: str) -> VersionTags:
        """Return a family's version tags."""
        return self._read(VersionTags, await self._send("GET", f"{_path(family)}/tags"))

    async def set_tag(self, family: str, tag: str, version: str) -> VersionTag:
        """Let a version tag point to a version."""
        answer = await self._send("PUT", _tag_path(family, tag), body={"version": version})
        return self._read(VersionTag, answer)

    async def remove_tag(self, family: str, tag: str) -> None:
        """Forget a version tag."""
        await self._send("DELETE", _tag_path(family, tag))

    async def validate(self, body: Any) -> ValidationReport:
        """Ask what is wrong with a description."""
        return self._read(
            ValidationReport, await self._send("POST", "/api/v1/models/validate", body=body)
        )

    async def check_health(self) -> None:
        """Return when GENOME can read and write its data."""
        await self._send("GET", "/health/ready")

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        try:
            answer = await self._pool.request(method, path, json=body, params=params)
        except UnicodeEncodeError as error:
            raise InvalidModelError("The input holds text that is not Unicode (UTF-8).") from error
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise GenomeUnavailableError(
                f"GENOME does not answer at {self.url} ({reason})."
            ) from error
        if not answer.is_success:
            raise self._refusal(answer)
        return answer

    def _refusal(self, answer: httpx2.Response) -> GenomeError:
        try:
            told = answer.json()
            if "reasons" in told:
                return GenomeUnavailableError(" ".join(map(str, told["reasons"])))
            error = told["error"]
            code, message, field = str(error["code"]), str(error["message"]), error.get("field")
        except (ValueError, KeyError, TypeError, AttributeError):
            return GenomeUnavailableError(f"{self.url} answers {answer.status_code}, not GENOME.")
        if answer.status_code == 404 and code not in _ERRORS:
            return GenomeUnavailableError(f"What answers at {self.url} is not GENOME: {message}")
        fallback = InvalidModelError if answer.status_code < 500 else GenomeUnavailableError
        return _ERRORS.get(code, fallback)(message, field)

    def _read(self, kind: type[Answer], answer: httpx2.Response) -> Answer:
        try:
            return kind.model_validate(json.loads(answer.content), context=GIVEN_OUT)
        except (ValueError, ValidationError) as error:
            raise GenomeUnavailableError(f"What answers at {self.url} is not GENOME.") from error


def _path(family: str) -> str:
    return f"/api/v1/models/{quote(family, safe='') or '-'}"


def _tag_path(family: str, tag: str) -> str:
    return f"{_path(family)}/tags/{quote(tag, safe='') or '-'}"


def _given(**params: str | None) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}


def _version(version: str | None) -> dict[str, str] | None:
    return {"version": version} if version is not None else None
