"""Asks for GENOME's token."""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..bearer import hash_of, same, secret_in
from ..http import error_body

_OPEN = frozenset({"/health", "/health/live", "/health/ready", "/metrics", "/openapi.json"})
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_CHECK = "/api/v1/models/validate"
"""Sent by POST, and changes nothing."""


class Gate:
    """Lets changes pass that bring the token, and reads too where `guard_reads` says so."""

    def __init__(self, app: ASGIApp, *, token: str, guard_reads: bool) -> None:
        self.app = app
        self._hash = hash_of(token)
        self._guard_reads = guard_reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or self._is_free(scope) or self._is_let_in(scope):
            await self.app(scope, receive, send)
            return
        message = "This GENOME asks for its token (GENOME_TOKEN): Authorization: Bearer <token>."
        answer = JSONResponse(
            error_body("unauthorized", message), 401, {"WWW-Authenticate": "Bearer"}
        )
        await answer(scope, receive, send)

    def _is_free(self, scope: Scope) -> bool:
        if scope["path"] in _OPEN:
            return True
        reads = scope["method"] in _READS or scope["path"] == _CHECK
        return reads and not self._guard_reads

    def _is_let_in(self, scope: Scope) -> bool:
        secret = secret_in(scope["headers"])
        return secret is not None and same(hash_of(secret), self._hash)
