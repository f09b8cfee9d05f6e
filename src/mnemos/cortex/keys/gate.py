"""Stands in front of everything that CORTEX's HTTP port offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mnemos.bearer import secret_in
from mnemos.http import ApiError, error_body

from ..errors import StorageUnavailableError
from ..openai.errors import error_body as openai_error_body
from ..principal import Principal
from .directory import KeyDirectory
from .records import ApiKey
from .routes import OPEN, scope_of

_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_OPENAI_CODES = {"unauthorized": "invalid_api_key", "forbidden": "insufficient_permissions"}

Headers = Callable[[str], Mapping[str, str]]
"""What a key's answers say of its limits."""


class Gate:
    """Lets requests in whose key may do what they ask for, and notes whose they are.

    What is below finds the Principal by `principal_of`. A key that is known costs no query.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyDirectory | None, limits: Headers) -> None:
        self.app = app
        self._keys = keys
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        keys = self._keys
        if scope["type"] != "http" or keys is None or not keys.required or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        try:
            principal = await _let_in(keys, scope)
        except ApiError as refusal:
            await _answer(refusal, scope["path"])(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self.app(scope, receive, self._telling_limits(principal, scope, send))

    def _telling_limits(self, principal: Principal, scope: Scope, send: Send) -> Send:
        """Let answers to work of a key with limits say how far it is from them."""
        if scope["method"] != "POST" or not self._limits(principal.key_id):
            return send

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._limits(principal.key_id).items():
                    headers.setdefault(name, value)
            await send(message)

        return tell


async def _let_in(keys: KeyDirectory, scope: Scope) -> Principal:
    """Say who asks. Raises ApiError for whom it is not allowed."""
    secret = secret_in(scope["headers"])
    if secret is None:
        message = "This CORTEX asks for an API key; send it as Authorization: Bearer mk-…"
        raise ApiError(401, "unauthorized", message, headers=_CHALLENGE)
    try:
        principal = _principal(await keys.find(secret))
    except StorageUnavailableError as error:
        raise ApiError(503, error.code, error.message, headers={"Retry-After": "2"}) from error
    needed = scope_of(scope["method"], scope["path"])
    if not principal.may(needed):
        message = f"The API key {principal.name} lacks the scope {needed}, which this takes."
        raise ApiError(403, "forbidden", message)
    return principal


def _principal(found: ApiKey | Principal | None) -> Principal:
    if found is None:
        message = "The API key is not one of this CORTEX's."
        raise ApiError(401, "unauthorized", message, headers=_CHALLENGE)
    if isinstance(found, Principal):
        return found
    if found.disabled_at is not None:
        message = f"The API key {found.name} is disabled."
        raise ApiError(401, "unauthorized", message, headers=_CHALLENGE)
    return found.principal


def _answer(error: ApiError, path: str) -> JSONResponse:
    """The refusal, in the words of the API that was asked."""
    if path.startswith("/v1/"):
        code = _OPENAI_CODES.get(error.code, error.code)
        body = openai_error_body(error.status_code, code, error.message)
    else:
        body = error_body(error.code, error.message)
    return JSONResponse(body, error.status_code, dict(error.headers or {}))
