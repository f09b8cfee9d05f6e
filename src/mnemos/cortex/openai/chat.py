"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Sequence
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
from .tool_calls import Call, Calling, CallReader, Said, call_told

CHUNK = "chat.completion.chunk"
PREFIX = "chatcmpl"
CALLED = "tool_calls"
"""Why an answer ended that calls tools."""

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
    calling = Calling.of(answer.job)
    choices = []
    for index, (text, told) in enumerate(choices_of(answer)):
        message, reason = _message(text, calling, answer.job.job_id, index), told["finish_reason"]
        if "tool_calls" in message and reason == "stop":
            reason = CALLED
        choice = {"index": index, "message": message, "logprobs": chat_logprobs(told)}
        choices.append(choice | {"finish_reason": reason})
    head = envelope(CHAT, PREFIX, answer.job)
    return head | {"choices": choices, "usage": usage([answer], choices=1)}


def _message(text: str, calling: Calling | None, job_id: str, choice: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if calling is None:
        return message
    reader = CallReader(calling)
    said = [*reader.feed(text), *reader.end()]
    calls = [one for one in said if isinstance(one, Call)]
    message["content"] = "".join(one for one in said if isinstance(one, str))
    if calls:
        message["content"] = message["content"] or None
        message["tool_calls"] = [
            call_told(call, job_id, choice, index) for index, call in enumerate(calls)
        ]
    return message


async def _stream(asked: Asked, body: ChatRequest) -> Response:
    job = await asked.first_job()
    head, calling = envelope(CHUNK, PREFIX, job), Calling.of(job)
    voices = [_Voice(index, job_id, calling) for index, job_id in enumerate(asked.job_ids)]

    def piece(index: int, text: str) -> list[dict[str, Any]]:
        return voices[index].says(text)

    def last(index: int, answer: Answer) -> list[dict[str, Any]]:
        return voices[index].ends(answer)

    return AnswerStream(
        asked, head, piece, last, with_usage=body.with_usage, choices=body.choices
    ).response()


class _Voice:
    """One choice of a stream: what its text becomes, piece by piece."""

    def __init__(self, index: int, job_id: str, calling: Calling | None) -> None:
        self._index = index
        self._job_id = job_id
        self._reader = None if calling is None else CallReader(calling)
        self._has_spoken = False
        self._calls = 0

    def says(self, text: str) -> list[dict[str, Any]]:
        """What a piece of its text brings."""
        return self._tell([text] if self._reader is None else self._reader.feed(text))

    def ends(self, answer: Answer) -> list[dict[str, Any]]:
        """What its end brings."""
        told = [] if self._reader is None else self._tell(self._reader.end())
        reason = answer.metadata["finish_reason"]
        if self._calls and reason == "stop":
            reason = CALLED
        return [*told, self._choice({}, chat_logprobs(answer.metadata), reason)]

    def _tell(self, said: Sequence[Said]) -> list[dict[str, Any]]:
        return [
            self._choice(self._call(one) if isinstance(one, Call) else {"content": one})
            for one in said
        ]

    def _call(self, call: Call) -> dict[str, Any]:
        told = call_told(call, self._job_id, 0, self._calls)
        delta = {"tool_calls": [{"index": self._calls, **told}]}
        self._calls += 1
        return delta

    def _choice(
        self,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        if not self._has_spoken:
            self._has_spoken = True
            delta = {"role": "assistant", **delta}
        told = {"index": self._index, "delta": delta}
        return {**told, "logprobs": logprobs, "finish_reason": reason}
