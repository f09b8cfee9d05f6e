"""Calls of CORTEX's HTTP API as values, and what the answers mean; nothing is sent from here."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import msgspec

from mnemos.trusted import certificates

from .errors import InvalidInputError, MnemosError, UnreachableError, error_of_answer

DEFAULT_URL = "http://127.0.0.1:8080"
URL_VARIABLE = "MNEMOS_CORTEX_URL"
KEY_VARIABLE = "MNEMOS_API_KEY"
CONNECT_SECONDS = 5.0
STREAM_SILENCE_SECONDS = 45.0
"""CORTEX sends a comment every 15 s; three missed ones mean that the connection is dead."""
CONTINUED = 2**61
"""A place behind every event of a job's log: from there on only its end is told."""

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Call:
    """One request; `extra_seconds` is how much longer than usual its answer may take."""

    method: str
    path: str
    content: bytes | None = None
    params: Mapping[str, str | int | float] = field(default_factory=dict)
    extra_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where CORTEX is and who asks."""

    url: str
    api_key: str | None = field(default=None, repr=False)

    def settings(self) -> dict[str, Any]:
        """What both kinds of httpx2's clients are made with."""
        headers = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {
            "base_url": self.url,
            "headers": headers,
            "verify": _certificates(),
            "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=20),
            # A proxy that the environment names cannot know this machine's own addresses.
            "trust_env": urlsplit(self.url).hostname not in _LOOPBACK,
        }


def _certificates() -> ssl.SSLContext | bool:
    try:
        return certificates()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInputError(f"SSL_CERT_FILE cannot be used ({reason}).") from error


def find_place(base_url: str | None, api_key: str | None) -> Place:
    """What is given, or else what the environment says. Raises InvalidInputError."""
    url = base_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInputError(
            f"{url!r} is no address of CORTEX; write it like {DEFAULT_URL}.", field="base_url"
        )
    key = api_key if api_key is not None else os.environ.get(KEY_VARIABLE)
    if key and not (key.isascii() and key.isprintable()):
        raise InvalidInputError("The API key holds what no header can carry.", field="api_key")
    return Place(url.rstrip("/"), key or None)


def build_request(
    pool: httpx2.Client | httpx2.AsyncClient, call: Call, timeout_seconds: float
) -> httpx2.Request:
    """The request that a call is."""
    headers = {"content-type": "application/json"} if call.content is not None else {}
    timeout = httpx2.Timeout(timeout_seconds + call.extra_seconds, connect=CONNECT_SECONDS)
    return pool.build_request(
        call.method,
        call.path,
        content=call.content,
        params=dict(call.params),
        headers=headers,
        timeout=timeout,
    )


def read_answer(response: httpx2.Response) -> Any:
    """The decoded JSON of an answer whose body is there. Raises MnemosError."""
    try:
        body = msgspec.json.decode(response.content) if response.content else None
    except msgspec.DecodeError:
        body = None
        if response.is_success:
            raise UnreachableError("What answers there is not CORTEX.", retryable=False) from None
    if response.is_success:
        return body
    raise error_of_answer(response.status_code, body, response.headers)


def translate(error: httpx2.HTTPError, url: str) -> MnemosError:
    """Our error for what httpx2 raised."""
    if isinstance(error, httpx2.ReadTimeout | httpx2.WriteTimeout | httpx2.PoolTimeout):
        return UnreachableError(f"CORTEX at {url} took too long to answer.")
    reason = str(error) or type(error).__name__
    return UnreachableError(
        f"CORTEX does not answer at {url} ({reason}).",
        refused=isinstance(error, httpx2.ConnectError),
        retryable=isinstance(error, httpx2.TransportError)
        and not isinstance(error, httpx2.UnsupportedProtocol),
    )


def encode(content: Any) -> bytes:
    """JSON. Raises InvalidInputError for what JSON has not."""
    try:
        return msgspec.json.encode(content)
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise InvalidInputError(f"The question cannot be sent as JSON: {error}.") from error


def submit_call(body: Mapping[str, Any]) -> Call:
    """Submit one job."""
    return Call("POST", "/api/v1/jobs", encode(body))


def job_call(job_id: str, action: str = "") -> Call:
    """Show a job, or `cancel` or `retry` it."""
    path = f"/api/v1/jobs/{segment(job_id)}"
    return Call("POST", f"{path}/{action}") if action else Call("GET", path)


def result_call(job_id: str) -> Call:
    """A job's answer alone, whatever its size."""
    return Call("GET", f"/api/v1/jobs/{segment(job_id)}/result")


def stream_call(job_id: str, from_sequence: int) -> Call:
    """A job's log from an event on."""
    path = f"/api/v1/jobs/{segment(job_id)}/stream"
    return Call("GET", path, params={"from_sequence": from_sequence})


def group_call(group: str, after: str, limit: int, wait_seconds: float) -> Call:
    """Finished jobs of a group, in finishing order; CORTEX waits until there is one."""
    params: dict[str, str | int | float] = {"after": after, "limit": limit}
    params["wait_seconds"] = wait_seconds
    path = f"/api/v1/groups/{segment(group)}/results"
    return Call("GET", path, params=params, extra_seconds=wait_seconds)


def cancel_group_call(group: str) -> Call:
    """Cancel what of a group has not ended."""
    return Call("POST", f"/api/v1/groups/{segment(group)}/cancel")


def segment(text: str) -> str:
    """A text as one part of a path."""
    return quote(text, safe="") or "-"
