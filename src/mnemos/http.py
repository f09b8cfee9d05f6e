"""What every HTTP service of the platform shares: errors, request ids, limits, serving.

Every 4xx and 5xx answer has the same body, whoever made it:

    {"error": {"code": "not_found", "message": "One sentence.", "field": null}}

and every answer carries `x-request-id`, the caller's own if it sent a sound one.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import structlog
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 16 * 1024 * 1024
REQUEST_ID_HEADER = "x-request-id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_REASONS = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be a text",
    "string_unicode": "holds text that is not Unicode",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}
_UNREADABLE = (
    "The body is not JSON that can be read: it is not UTF-8, nested too deep, "
    "or holds a number with too many digits."
)
_BACKLOG = 2048
_DRAIN_FACTOR = 4
_DRAIN_SECONDS = 10.0
_CODES_BY_STATUS = {
    400: "invalid_input",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "invalid_input",
    422: "invalid_input",
    503: "unavailable",
}
_log = structlog.get_logger(__name__)


class ApiError(HTTPException):
    """An answer that is an error: HTTP `status`, stable `code`, one sentence, the field at fault.

    Raised anywhere below a route; `headers` join the answer (for example Retry-After).
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers) if headers else None)
        self.code = code
        self.message = message
        self.field = field


def invalid_input(message: str, field: str | None = None) -> ApiError:
    """A 422: the body or a parameter is not what it must be."""
    return ApiError(422, "invalid_input", message, field)


def unavailable(message: str, retry_after_seconds: int = 2) -> ApiError:
    """A 503: nothing is wrong with the request; the same one may be sent again later."""
    headers = {"Retry-After": str(retry_after_seconds)}
    return ApiError(503, "unavailable", message, headers=headers)


def error_body(code: str, message: str, field: str | None = None) -> dict[str, Any]:
    """The body of every error answer. Never raises, whatever text a message quotes."""
    safe = message.encode("utf-8", "replace").decode("utf-8")
    return {"error": {"code": code, "message": safe, "field": field}}


def describe_validation_errors(errors: Sequence[Any]) -> tuple[str, str | None]:
    """Turn pydantic's errors into one sentence and the dotted path of the first field at fault."""
    first = errors[0]
    kind = str(first.get("type", ""))
    if kind == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return f"The body is not valid JSON: {reason}.".replace(": .", "."), None
    path = [str(part) for part in first.get("loc", ())]
    if path and path[0] in {"body", "query", "path", "header"}:
        path = path[1:]
    field = ".".join(path) or None
    reason = _reason(kind, str(first.get("msg", "is not valid")))
    if field:
        sentence = f"{field}: {reason}"
    elif kind == "value_error":  # says itself what it is about
        sentence = f"The body: {reason}"
    else:
        sentence = f"The body {reason}"
    more = len(errors) - 1
    if more:
        sentence += f" (and {more} more problem{'s' if more > 1 else ''})"
    return sentence.rstrip(".") + ".", field


def _reason(kind: str, message: str) -> str:
    """Pydantic's words as they follow the name of a field."""
    plain = _REASONS.get(kind)
    if plain is not None:
        return plain
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    plain = re.sub(r"^(Input|String|List|Dictionary|Value) should\b", "must", message)
    return plain.replace(" after validation", "")


def allowed_methods(request: Request, told: str) -> str:
    """The header Allow for where a request went: all that the document has there.

    `told` is starlette's own, which names one route's methods alone.
    """
    paths = request.app.openapi()["paths"]
    where = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    for shape in sorted(paths, key=lambda shape: shape.count("{")):  # /a/b before /a/{name}
        if compile_path(shape)[0].match(where):
            return ", ".join(method.upper() for method in paths[shape])
    return told


def install_error_handling(
    app: FastAPI,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    larger_bodies: Mapping[str, int] | None = None,
) -> None:
    """Give `app` the common error body, request ids and the body limit.

    `larger_bodies` are paths whose bodies may have so many bytes; one that ends with a slash
    means all below it.
    """
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_middleware(
        BodyLimitMiddleware, max_bytes=max_body_bytes, larger_bodies=larger_bodies or {}
    )
    app.add_middleware(RequestEnvelopeMiddleware)


async def _answer_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error, ApiError):
        body = error_body(error.code, error.message, error.field)
        return JSONResponse(body, error.status_code, dict(error.headers or {}))
    status = 422 if error.status_code in (400, 415) else error.status_code
    code = _CODES_BY_STATUS.get(status, "invalid_input" if status < 500 else "internal")
    message = f"{str(error.detail).rstrip('.')}."
    headers = dict(error.headers or {})
    if isinstance(error.__cause__, (ValueError, RecursionError)):
        message = _UNREADABLE
    if status == 404:
        message = f"There is nothing at {request.url.path}."
    elif status == 405:
        message = f"{request.url.path} does not take {request.method}."
        headers["Allow"] = allowed_methods(request, headers.get("Allow", ""))
    return JSONResponse(error_body(code, message), status, headers)


async def _answer_validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    message, field = describe_validation_errors(error.errors())
    return JSONResponse(error_body("invalid_input", message, field), 422)


class RequestEnvelopeMiddleware:
    """Names every request, and answers 500 for whatever nothing below has answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                await self.app(scope, receive, send_named)
        except Exception as error:
            _log.exception("http.unhandled_error", path=scope["path"], request_id=request_id)
            if started:
                raise
            body = error_body("internal", f"The service failed: {type(error).__name__}.")
            await JSONResponse(body, 500)(scope, receive, send_named)


class BodyLimitMiddleware:
    """Refuses bodies over `max_bytes` with 413, announced or not, without holding them.

    Bodies for the paths in `larger_bodies` may have as many bytes as it says.
    """

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, larger_bodies: Mapping[str, int] | None = None
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.larger_bodies = larger_bodies or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self._limit_of(scope["path"])
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > limit:
            await self._drain(receive)
            error = _too_large(limit)
            body = error_body(error.code, error.message)
            await JSONResponse(body, 413, {"Connection": "close"})(scope, receive, send)
            return
        seen = 0

        async def receive_counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                await self._drain(receive)
                raise _too_large(limit)
            return message

        await self.app(scope, receive_counted, send)

    def _limit_of(self, path: str) -> int:
        limit = self.larger_bodies.get(path)
        if limit is not None:
            return limit
        folders = [folder for folder in self.larger_bodies if folder.endswith("/")]
        above = (self.larger_bodies[folder] for folder in folders if path.startswith(folder))
        return next(above, self.max_bytes)

    async def _drain(self, receive: Receive) -> None:
        """Let a client that sends first and reads later still see its answer."""
        left = self.max_bytes * _DRAIN_FACTOR
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "too_large", f"The body is larger than {limit / 2**20:g} MiB.")


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


class PortUnavailableError(Exception):
    """An address cannot be listened on; the message names it and the setting to change."""


def bind_socket(host: str, port: int, setting: str) -> socket.socket:
    """Bind host:port (0 draws a free one). Raises PortUnavailableError, in one sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Of a socket that does not say TCP, asyncio does not turn Nagle's algorithm off: 40 ms a call.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PortUnavailableError(
            f"Cannot listen on {host}:{port} ({reason}); set {setting} to another port."
        ) from error
    listener.setblocking(False)
    return listener


class Certificate(NamedTuple):
    """Files in PEM: the certificate with its chain, and its private key."""

    chain: Path
    key: Path


class HttpServer:
    """Serves one ASGI app inside the caller's event loop, without touching signals.

    `bind()` takes the port at once, so that a busy one is told before anything else starts;
    `serve()` runs until `stop()` and is meant to be a task of the owner's group. Cancelling
    `serve()` closes the listener and every connection at once.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        setting: str,
        grace_seconds: float = 5.0,
        certificate: Certificate | None = None,
    ) -> None:
        self._host = host
        self._wanted_port = port
        self._setting = setting
        self._socket: socket.socket | None = None
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=max(1, round(grace_seconds)),
            ssl_certfile=certificate.chain if certificate else None,
            ssl_keyfile=certificate.key if certificate else None,
        )
        self._server = _EmbeddedServer(config)

    def bind(self) -> int:
        """Take the port and return it. Raises PortUnavailableError."""
        if self._socket is None:
            self._socket = bind_socket(self._host, self._wanted_port, self._setting)
        return self.port

    @property
    def port(self) -> int:
        """The port that is served; known after `bind()`."""
        if self._socket is None:
            raise RuntimeError("bind() comes first")
        return int(self._socket.getsockname()[1])

    async def wait_ready(self) -> None:
        """Return once requests are answered."""
        await self._server.ready.wait()

    async def serve(self) -> None:
        """Answer requests until `stop()`; open requests get the grace to finish."""
        self.bind()
        assert self._socket is not None
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            self._server.close_everything()
            self._socket.close()

    def stop(self) -> None:
        """Ask `serve()` to finish. Idempotent, and allowed before it started."""
        self._server.should_exit = True

    def close(self) -> None:
        """Give a bound port back when `serve()` never ran. Idempotent."""
        if self._socket is not None:
            self._socket.close()


class _EmbeddedServer(uvicorn.Server):
    """uvicorn, minus its claim on the process's signals."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()

    def close_everything(self) -> None:
        for server in getattr(self, "servers", []):
            server.close()
        for task in list(self.server_state.tasks):
            task.cancel()
