"""`POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from ..api.context import Cortex
from ..api.schemas import Key
from ..api.views import json_response
from .answers import CHAT, chat_logprobs, choices_of, envelope, usage
from .asking import Answer, Asked, ask
from .documents import ERRORS, STREAM
from .requests import ChatRequest
from .streams import AnswerStream

CHUNK = "chat.completion.chunk"
PREFIX = "chatcmpl"

router = APIRouter(tags=["chat"])


@router.post("/chat/completions", summary="Answer a conversation", responses=ERRORS | STREAM)
async def create(
    body: ChatRequest,
    request: Request,
    cortex: Cortex,
    idempotency_key: Annotated[Key | None, Header()] = None,
) -> Response:
    """The answer, or its pieces as they are drawn if `stream` is set.

    A client that goes away cancels what it asked for, unless it sent an Idempotency-Key: the same
    request with the same key is then given the same answer, however often it is sent.
    """
    asked = await ask(cortex, body.jobs("/v1/chat/completions"), idempotency_key)
    if body.stream:
        return await _stream(asked, body)
    [answer] = await asked.answers(request)
    return json_response(completion_of(answer))


def completion_of(answer: Answer) -> dict[str, Any]:
    """The body of an answer that is told whole."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": chat_logprobs(told),
            "finish_reason": told["finish_reason"],
        }
        for index, (text, told) in enumerate(choices_of(answer))
    ]
    head = envelope(CHAT, PREFIX, answer.job)
    return head | {"choices": choices, "usage": usage([answer], choices=1)}


async def _stream(asked: Asked, body: ChatRequest) -> Response:
    head = envelope(CHUNK, PREFIX, await asked.first_job())
    spoke: set[int] = set()

    def role(index: int) -> dict[str, str]:
        if index in spoke:
            return {}
        spoke.add(index)
        return {"role": "assistant"}

    def piece(index: int, text: str) -> dict[str, Any]:
        return head | _choice(index, role(index) | {"content": text})

    def last(index: int, answer: Answer) -> dict[str, Any]:
        reason = answer.metadata["finish_reason"]
        return head | _choice(index, role(index), chat_logprobs(answer.metadata), reason)

    return AnswerStream(
        asked, piece, last, with_usage=body.with_usage, choices=body.choices
    ).response()


def _choice(
    index: int,
    delta: dict[str, Any],
    logprobs: dict[str, Any] | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    return {"choices": [choice]}
