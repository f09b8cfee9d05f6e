"""GENOME HTTP client."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx2
import structlog
from pydantic import SecretStr

from ..errors import ModelNotFoundError, StorageUnavailableError

logger = structlog.get_logger(__name__)

REMEMBERED_BYTES = 32 * 1024 * 1024


class GenomeClient:
    """Asks GENOME about models, over one pool of connections.

    `timeout` is seconds for one request, `token` what GENOME asks for (GENOME_TOKEN). connect() may
    be left out: the first request does it.
    GENOME is asked each time, but it sends again only what has changed.
    """

    def __init__(self, url: str, timeout: float = 30, token: SecretStr | None = None) -> None:
        self._token = token
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._client: httpx2.AsyncClient | None = None
        self._remembered = RememberedAnswers(REMEMBERED_BYTES)
        logger.info("genome_client_initialized", url=self.url)

    async def connect(self) -> None:
        """Make the pool; no request is sent."""
        if self._client is None:
            headers = {}
            if self._token is not None:
                headers["authorization"] = f"Bearer {self._token.get_secret_value()}"
            self._client = httpx2.AsyncClient(
                base_url=self.url, timeout=self.timeout, headers=headers
            )

    async def close(self) -> None:
        """Close the pool. May be called twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def health_check(self) -> bool:
        """Return whether GENOME answers that it is well."""
        try:
            response = await self._get("/health")
        except StorageUnavailableError as error:
            logger.warning("genome_health_check_failed", error=error.message)
            return False
        return response.status_code == httpx2.codes.OK

    async def get_model(self, family: str, version: str) -> dict[str, Any]:
        """Return a model's metadata; `version` may be a version tag such as `prod`.

        Raises:
            ModelNotFoundError: GENOME knows no such family or version.
            StorageUnavailableError: GENOME cannot be reached or does not answer as it should.
        """
        known = self._remembered.get((family, version))
        response = await self._get(
            f"/api/v1/models/{quote(family, safe='')}",
            params={"version": version},
            headers={"If-None-Match": known.etag} if known else None,
        )
        if response.status_code == httpx2.codes.NOT_MODIFIED and known is not None:
            return self._document(known.content)
        if response.status_code == httpx2.codes.NOT_FOUND:
            raise ModelNotFoundError(_message(response) or f"no model {family}:{version} exists")
        if response.status_code != httpx2.codes.OK:
            logger.error(
                "get_model_failed", family=family, version=version, status=response.status_code
            )
            said = _message(response)
            raise StorageUnavailableError(
                f"GENOME at {self.url} answered {response.status_code} for {family}:{version}"
                + (f" ({said.rstrip('.')})" if said else "")
            )
        document = self._document(response.content)
        if etag := response.headers.get("etag"):
            self._remembered.put((family, version), Answer(etag, response.content))
        return document

    async def _get(
        self,
        path: str,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx2.Response:
        await self.connect()
        assert self._client is not None
        try:
            return await self._client.get(path, params=params, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise StorageUnavailableError(
                f"GENOME at {self.url} does not answer ({reason})"
            ) from error

    def _document(self, content: bytes) -> dict[str, Any]:
        try:
            document = json.loads(content)
        except ValueError as error:
            raise StorageUnavailableError(f"{self.url} does not speak like GENOME") from error
        if not isinstance(document, dict):
            raise StorageUnavailableError(f"{self.url} does not speak like GENOME")
        return document


class Answer(NamedTuple):
    """What GENOME said, and the ETag by which it knows that again."""

    etag: str
    content: bytes


class RememberedAnswers:
    """The answers used last, of at most `limit_bytes` together."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._answers: OrderedDict[tuple[str, str], Answer] = OrderedDict()

    def get(self, key: tuple[str, str]) -> Answer | None:
        """Return an answer, which then counts as used last."""
        if key not in self._answers:
            return None
        self._answers.move_to_end(key)
        return self._answers[key]

    def put(self, key: tuple[str, str], answer: Answer) -> None:
        """Keep an answer in the place of an earlier one; the oldest ones make room."""
        self._forget(key)
        self._answers[key] = answer
        self._size_bytes += len(answer.content)
        while self._size_bytes > self._limit_bytes:
            self._forget(next(iter(self._answers)))

    def _forget(self, key: tuple[str, str]) -> None:
        answer = self._answers.pop(key, None)
        self._size_bytes -= len(answer.content) if answer else 0


def _message(response: httpx2.Response) -> str | None:
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return None
    return message if isinstance(message, str) else None
