"""What `mnemos batches` asks of CORTEX: OpenAI's own routes, so any client could do the same."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from .http import CONNECT_SECONDS, CortexClient

UPLOAD_SECONDS = 900.0
RETRY_SECONDS = 300.0
"""Making the input of a batch anew takes as long as reading the old one."""
PAGE = 100


class BatchClient(CortexClient):
    """CORTEX's files and batches, one method a route. Raises CliError alone."""

    async def upload(self, path: Path) -> dict[str, Any]:
        """Store a file of requests."""
        timeout = httpx2.Timeout(UPLOAD_SECONDS, connect=CONNECT_SECONDS)
        with path.open("rb") as file:
            try:
                response = await self._pool.post(
                    "/v1/files",
                    data={"purpose": "batch"},
                    files={"file": (path.name, file)},
                    timeout=timeout,
                )
            except httpx2.HTTPError as error:
                raise self._translate(error) from error
        stored: dict[str, Any] = self._read(response)
        return stored

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a batch."""
        return await self._object("POST", "/v1/batches", body=body)

    async def retry(self, batch_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a batch of another's failed lines."""
        path = f"/v1/batches/{_segment(batch_id)}/retry"
        return await self._object("POST", path, body=body, timeout_seconds=RETRY_SECONDS)

    async def batch(self, batch_id: str) -> dict[str, Any]:
        """One batch."""
        return await self._object("GET", f"/v1/batches/{_segment(batch_id)}")

    async def batches(self, limit: int) -> list[dict[str, Any]]:
        """The newest batches."""
        found: list[dict[str, Any]] = []
        after: str | None = None
        while len(found) < limit:
            params = {"limit": min(PAGE, limit - len(found)), "after": after}
            page = await self._object("GET", "/v1/batches", params=params)
            found += page["data"]
            after = page["last_id"]
            if not page["has_more"]:
                break
        return found

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Let a batch stop."""
        return await self._object("POST", f"/v1/batches/{_segment(batch_id)}/cancel")

    def content(self, file_id: str) -> AbstractAsyncContextManager[httpx2.Response]:
        """A file, still to be read."""
        return self.download(f"/v1/files/{_segment(file_id)}/content")

    async def deliveries(self, state: str | None, limit: int) -> list[dict[str, Any]]:
        """What webhooks were told, and what has not arrived."""
        params = {"state": state, "limit": limit}
        answer = await self._object("GET", "/api/v1/webhooks/deliveries", params=params)
        listed: list[dict[str, Any]] = answer["deliveries"]
        return listed


def _segment(text: str) -> str:
    return quote(text, safe="") or "-"
