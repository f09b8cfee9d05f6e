"""`POST /v1/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from ..api.context import Cortex
from ..api.schemas import Key
from ..api.views import json_response
from .answers import TEXT, choices_of, envelope, text_logprobs, usage
from .asking import Answer, Asked, ask
from .documents import ERRORS, STREAM
from .requests import CompletionRequest
from .streams import AnswerStream

PREFIX = "cmpl"

router = APIRouter(tags=["completions"])


@router.post("/completions", summary="Continue texts", responses=ERRORS | STREAM)
async def create(
    body: CompletionRequest,
    request: Request,
    cortex: Cortex,
    idempotency_key: Annotated[Key | None, Header()] = None,
) -> Response:
    """Continue each prompt as it stands, past the model's chat template; see chat/completions."""
    asked = await ask(cortex, body.jobs("/v1/completions"), idempotency_key)
    if body.stream:
        return await _stream(asked, body)
    answers = await asked.answers(request)
    return json_response(completion_of(answers, body.prompts if body.echo else None))


def completion_of(
    answers: Sequence[Answer], prompts: Sequence[str] | None = None
) -> dict[str, Any]:
    """The body of answers that are told whole, behind their prompts if these are given."""
    choices: list[dict[str, Any]] = []
    for echo, answer in zip(prompts or [""] * len(answers), answers, strict=True):
        for text, told in choices_of(answer):
            scores = text_logprobs(told, len(echo))
            choices.append(_choice(len(choices), echo + text, scores, told["finish_reason"]))
    head = envelope(TEXT, PREFIX, answers[0].job)
    return head | {"choices": choices, "usage": usage(answers, choices=1)}


async def _stream(asked: Asked, body: CompletionRequest) -> Response:
    head = envelope(TEXT, PREFIX, await asked.first_job())
    begun: set[int] = set()

    def echo(index: int) -> str:
        if index in begun or not body.echo:
            return ""
        begun.add(index)
        return body.prompts[index // body.choices]

    def piece(index: int, text: str) -> dict[str, Any]:
        return head | {"choices": [_choice(index, echo(index) + text)]}

    def last(index: int, answer: Answer) -> dict[str, Any]:
        told = answer.metadata
        scores = text_logprobs(told, 0)
        return head | {"choices": [_choice(index, echo(index), scores, told["finish_reason"])]}

    return AnswerStream(
        asked, piece, last, with_usage=body.with_usage, choices=body.choices
    ).response()


def _choice(
    index: int, text: str, logprobs: dict[str, Any] | None = None, reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
