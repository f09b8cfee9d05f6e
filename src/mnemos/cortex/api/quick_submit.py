"""The quick way for `POST /api/v1/jobs`: the same checks and the same answers, less machinery.

Only what is sound takes it. Whatever is not as it should be goes on to the route, which finds the
same fault again and says what is wrong with it in its own words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from fastapi import Response
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mnemos.http import ApiError

from ..errors import CortexError
from ..principal import principal_of
from ..records import NewJob
from .context import ApiContext
from .jobs import answer_submitted
from .schemas import JobSubmit, Key

PATH = "/api/v1/jobs"
_KEY: TypeAdapter[str] = TypeAdapter(Key)
_JSON = (b"application/json", b"application/json; charset=utf-8")


class QuickSubmit:
    """Answers submissions of one job; everything else goes to the application below."""

    def __init__(self, app: ASGIApp, *, context: ApiContext) -> None:
        self.app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        messages = await _read(receive)
        new = await self._prepared(scope, messages)
        if new is None:
            await self.app(scope, _replayed(messages, receive), send)
            return
        response = await self._answer(scope, new)
        await response(scope, receive, send)

    def _context_of(self, scope: Scope) -> ApiContext:
        return self._context.asked_by(principal_of(scope))

    async def _prepared(self, scope: Scope, messages: Iterable[Message]) -> NewJob | None:
        """The job that is asked for; None where anything is wrong with it."""
        try:
            key = _key_of(scope)
            body = json.loads(b"".join(message["body"] for message in messages))
            job = JobSubmit.model_validate(body)
            return await self._context_of(scope).preparation.prepare(job, key)
        except (ApiError, CortexError, ValidationError, LookupError, ValueError, RecursionError):
            return None

    async def _answer(self, scope: Scope, new: NewJob) -> Response:
        try:
            return await answer_submitted(self._context_of(scope), new)
        except (ApiError, CortexError) as error:
            handlers: dict[Any, Any] = scope["app"].exception_handlers
            kinds = (kind for kind in type(error).__mro__ if kind in handlers)
            response: Response = await handlers[next(kinds)](Request(scope), error)
            return response


async def _read(receive: Receive) -> list[Message]:
    messages: list[Message] = []
    while not messages or messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def _replayed(messages: list[Message], receive: Receive) -> Receive:
    left = iter(messages)

    async def replay() -> Message:
        for message in left:
            return message
        return await receive()

    return replay


def _key_of(scope: Scope) -> str | None:
    """The Idempotency-Key; raises ValueError or LookupError for headers that the route must see."""
    named: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in named and name in (b"content-type", b"idempotency-key"):
            raise ValueError(name)
        named[name] = value
    if named[b"content-type"].lower() not in _JSON:
        raise ValueError("content-type")
    key = named.get(b"idempotency-key")
    return None if key is None else _KEY.validate_python(key.decode("latin-1"))
