"""GENOME HTTP client."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2
import structlog

from ..errors import ModelNotFoundError, StorageUnavailableError

logger = structlog.get_logger(__name__)


class GenomeClient:
    """Asks GENOME about models, over one pool of connections.

    `timeout` is seconds for one request. connect() may be left out: the first request does it.
    """

    def __init__(self, url: str, timeout: float = 30) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._client: httpx2.AsyncClient | None = None
        logger.info("genome_client_initialized", url=self.url)

    async def connect(self) -> None:
        """Make the pool; no request is sent."""
        if self._client is None:
            self._client = httpx2.AsyncClient(base_url=self.url, timeout=self.timeout)

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
        """Return a model's metadata.

        Raises:
            ModelNotFoundError: GENOME knows no such family or version.
            StorageUnavailableError: GENOME cannot be reached or does not answer as it should.
        """
        response = await self._get(
            f"/api/v1/models/{quote(family, safe='')}", params={"version": version}
        )
        if response.status_code == httpx2.codes.NOT_FOUND:
            raise ModelNotFoundError(_message(response) or f"no model {family}:{version} exists")
        if response.status_code != httpx2.codes.OK:
            logger.error(
                "get_model_failed", family=family, version=version, status=response.status_code
            )
            raise StorageUnavailableError(
                f"GENOME at {self.url} answered {response.status_code} for {family}:{version}"
            )
        return self._document(response)

    async def _get(self, path: str, params: dict[str, str] | None = None) -> httpx2.Response:
        await self.connect()
        assert self._client is not None
        try:
            return await self._client.get(path, params=params)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise StorageUnavailableError(
                f"GENOME at {self.url} does not answer ({reason})"
            ) from error

    def _document(self, response: httpx2.Response) -> dict[str, Any]:
        try:
            document = response.json()
        except ValueError as error:
            raise StorageUnavailableError(f"{self.url} does not speak like GENOME") from error
        if not isinstance(document, dict):
            raise StorageUnavailableError(f"{self.url} does not speak like GENOME")
        return document


def _message(response: httpx2.Response) -> str | None:
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return None
    return message if isinstance(message, str) else None
