"""The HTTP client of every command: one connection pool, one way in which errors are told."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx2

from mnemos.trusted import certificates

from .errors import CliError, NotUnicode, TimedOut, Unreachable, UsageFault, error_from_response

Answer = TypeVar("Answer")

CALL_SECONDS = 30.0
CONNECT_SECONDS = 5.0
STREAM_SILENCE_SECONDS = 45.0
"""CORTEX sends a comment every 15 s; three missed ones mean that the connection is dead."""

_SECRETS = {"CORTEX": "MNEMOS_API_KEY", "GENOME": "MNEMOS_GENOME_TOKEN"}
"""The variables with what the services ask for."""
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def run_async(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a command's coroutine; Ctrl-C cancels it and comes out as KeyboardInterrupt.

    Of several errors that a task group ended with, the first is told.
    """
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:
        raise first_error(group) from group


def first_error(error: BaseException) -> BaseException:
    """The first real error inside nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class ServerEvent(NamedTuple):
    """One server-sent event, its data decoded."""

    id: str
    event: str
    data: Any


class ServiceClient:
    """Talks to one service (CORTEX or GENOME); an async context manager that owns the pool.

    Every call raises CliError only: Unreachable when nobody answers, TimedOut when the answer
    does not come in time, and what the service said otherwise. Cancelling a call closes it.
    """

    def __init__(self, service: str, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageFault(
                f"{url!r} is no address of {service}.", hint="write it like http://127.0.0.1:8080"
            )
        self.service = service
        self.url = url.rstrip("/")
        variable = _SECRETS.get(service, "")
        secret = os.environ.get(variable, "")
        if secret and not (secret.isascii() and secret.isprintable()):
            raise UsageFault(f"{variable} holds what no header can carry.")
        self._pool = httpx2.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {secret}"} if secret else {},
            verify=_certificates(),
            timeout=httpx2.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS),
            # A proxy that the environment names cannot know this machine's own addresses.
            trust_env=parts.hostname not in _LOOPBACK,
        )

    async def __aenter__(self) -> Self:
        """Open nothing yet: connections are made by the first call."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the pool."""
        await self._pool.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | None = None,
        params: Mapping[str, Any] | list[tuple[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = CALL_SECONDS,
    ) -> Any:
        """Send one request and give back its decoded JSON (None when there is none)."""
        try:
            request = self._pool.build_request(
                method,
                path,
                json=body,
                content=content,
                params=_clean(params),
                headers=dict(headers or {}),
                timeout=httpx2.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            )
        except UnicodeEncodeError as error:
            raise NotUnicode from error
        if content is not None:
            request.headers["content-type"] = "application/json"
        try:
            response = await self._pool.send(request)
        except httpx2.HTTPError as error:
            raise self._translate(error) from error
        return self._read(response)

    async def events(
        self, path: str, *, last_event_id: str | None = None
    ) -> AsyncIterator[ServerEvent]:
        """Read a stream of server-sent events until the server closes it."""
        headers = {"accept": "text/event-stream"}
        if last_event_id:
            headers["last-event-id"] = last_event_id
        timeout = httpx2.Timeout(STREAM_SILENCE_SECONDS, connect=CONNECT_SECONDS)
        try:
            async with self._pool.stream("GET", path, headers=headers, timeout=timeout) as response:
                if response.status_code != 200:
                    await response.aread()
                    self._read(response)
                async for event in _parse_events(response.aiter_bytes()):
                    yield event
        except httpx2.HTTPError as error:
            raise self._translate(error) from error

    @asynccontextmanager
    async def download(self, path: str) -> AsyncIterator[httpx2.Response]:
        """An answer of any size, its body still to be read within the context."""
        timeout = httpx2.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS)
        try:
            async with self._pool.stream("GET", path, timeout=timeout) as response:
                if not response.is_success:
                    await response.aread()
                    self._read(response)
                yield response
        except httpx2.RemoteProtocolError as error:
            raise Unreachable(
                f"The answer of {self.service} ended early: it is damaged, or the line broke."
            ) from error
        except httpx2.HTTPError as error:
            raise self._translate(error) from error

    def _read(self, response: httpx2.Response) -> Any:
        body: object = None
        if response.content:
            try:
                body = json.loads(response.content)
            except ValueError:
                body = response.text[:200]
        if response.is_success and not isinstance(body, str):
            return body
        raise error_from_response(
            self.service, response.status_code, body, response.headers.get("x-request-id")
        )

    def _translate(self, error: httpx2.HTTPError) -> CliError:
        if isinstance(error, httpx2.ReadTimeout | httpx2.WriteTimeout | httpx2.PoolTimeout):
            return TimedOut(f"{self.service} at {self.url} took too long to answer.")
        reason = str(error) or type(error).__name__
        return Unreachable(
            f"{self.service} does not answer at {self.url} ({reason}).",
            hint="start it with: mnemos up",
        )


class CortexClient(ServiceClient):
    """CORTEX's HTTP API, one method a route that the commands use."""

    def __init__(self, url: str) -> None:
        super().__init__("CORTEX", url)

    async def submit(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Submit one job; it is durable when this returns."""
        return await self._object("POST", "/api/v1/jobs", body=job)

    async def submit_batch(self, content: bytes, timeout_seconds: float) -> list[dict[str, Any]]:
        """Submit an encoded `{"jobs": […]}`; one result a job, in their order."""
        answer = await self.call(
            "POST", "/api/v1/jobs/batch", content=content, timeout_seconds=timeout_seconds
        )
        results: list[dict[str, Any]] = answer["results"]
        return results

    async def job(self, job_id: str) -> dict[str, Any]:
        """One job with its attempts."""
        return await self._object("GET", f"/api/v1/jobs/{_segment(job_id)}")

    def job_result(self, job_id: str) -> AbstractAsyncContextManager[httpx2.Response]:
        """One job's answer alone, whatever its size."""
        return self.download(f"/api/v1/jobs/{_segment(job_id)}/result")

    async def jobs(self, params: list[tuple[str, Any]]) -> dict[str, Any]:
        """One page of jobs, newest first."""
        return await self._object("GET", "/api/v1/jobs", params=params)

    async def job_action(self, job_id: str, action: str) -> dict[str, Any]:
        """`cancel` or `retry` a job."""
        return await self._object("POST", f"/api/v1/jobs/{_segment(job_id)}/{action}")

    async def redrive(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Queue dead letters again for some seconds; `next_cursor` says that there are more."""
        return await self._object("POST", "/api/v1/jobs/redrive", body=wanted)

    def job_events(
        self, job_id: str, last_event_id: str | None = None
    ) -> AsyncIterator[ServerEvent]:
        """A job's states and tokens, from the beginning or after an event."""
        return self.events(f"/api/v1/jobs/{_segment(job_id)}/stream", last_event_id=last_event_id)

    async def group_results(
        self, group: str, after: str, limit: int, wait_seconds: float
    ) -> dict[str, Any]:
        """Finished jobs of a group, in finishing order; waits until there is one."""
        return await self._object(
            "GET",
            f"/api/v1/groups/{_segment(group)}/results",
            params={"after": after, "limit": limit, "wait_seconds": wait_seconds},
            timeout_seconds=wait_seconds + CALL_SECONDS,
        )

    async def cancel_group(self, group: str) -> int:
        """Cancel what of a group has not finished; says how many."""
        answer = await self._object("POST", f"/api/v1/groups/{_segment(group)}/cancel")
        return int(answer["cancelled"])

    async def workers(self) -> list[dict[str, Any]]:
        """All workers that CORTEX knows."""
        answer = await self.call("GET", "/api/v1/workers")
        listed: list[dict[str, Any]] = answer["workers"] if isinstance(answer, dict) else answer
        return listed

    async def worker(self, worker_id: str) -> dict[str, Any]:
        """One worker."""
        return await self._object("GET", f"/api/v1/workers/{_segment(worker_id)}")

    async def worker_action(
        self, worker_id: str, action: str, said: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """`drain`, `pause`, `resume`, `shutdown` or `restart` a worker.

        `said` may hold a `reason` and, where the worker leaves, `deadline_seconds`.
        """
        path = f"/api/v1/workers/{_segment(worker_id)}/{action}"
        return await self._object("POST", path, body=said or None)

    async def create_key(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Make an API key; the answer alone has its secret."""
        return await self._object("POST", "/api/v1/keys", body=wanted)

    async def keys(self) -> list[dict[str, Any]]:
        """All API keys, oldest first."""
        answer = await self._object("GET", "/api/v1/keys")
        listed: list[dict[str, Any]] = answer["keys"]
        return listed

    async def key(self, named: str) -> dict[str, Any]:
        """One API key, by its id or its name."""
        return await self._object("GET", f"/api/v1/keys/{_segment(named)}")

    async def change_key(self, named: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change what is given of an API key."""
        return await self._object("PATCH", f"/api/v1/keys/{_segment(named)}", body=changes)

    async def delete_key(self, named: str) -> dict[str, Any]:
        """Forget an API key."""
        return await self._object("DELETE", f"/api/v1/keys/{_segment(named)}")

    async def _object(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        answer = await self.call(method, path, **arguments)
        if not isinstance(answer, dict):
            raise Unreachable(f"The server at {self.url} is not CORTEX.")
        return answer


def _certificates() -> ssl.SSLContext | bool:
    try:
        return certificates()
    except OSError as error:
        raise UsageFault(
            f"SSL_CERT_FILE cannot be used ({error.strerror or error}).",
            hint="it names a file of certificates (PEM)",
        ) from error


def _segment(text: str) -> str:
    return quote(text, safe="") or "-"


def _clean(params: Mapping[str, Any] | list[tuple[str, Any]] | None) -> list[tuple[str, Any]]:
    pairs = params.items() if isinstance(params, Mapping) else params or []
    return [(name, value) for name, value in pairs if value is not None]


async def _parse_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[ServerEvent]:
    """Cut a byte stream into events; only a line feed ends a line, whatever the text holds."""
    fields: dict[str, str] = {}
    async for line in _lines(chunks):
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data" and "data" in fields:
                fields["data"] += "\n" + value
            elif name:
                fields[name] = value
        elif "data" in fields:
            yield ServerEvent(
                fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"])
            )
            fields = {}
        else:
            fields = {}


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    rest = b""
    async for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")
