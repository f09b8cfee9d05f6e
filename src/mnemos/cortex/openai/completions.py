"""`POST /v1/completions`."""

from __future__ import annotations

import json
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
    return json_response(completion_of(answers, echo=bool(body.echo)))


def completion_of(answers: Sequence[Answer], *, echo: bool = False) -> dict[str, Any]:
    """The body of answers that are told whole, with `echo` behind their prompts."""
    choices: list[dict[str, Any]] = []
    for answer in answers:
        before = _prompt_of(answer) if echo else ""
        for text, told in choices_of(answer):
            scores = text_logprobs(told, before, answer.metadata.get("prompt_logprobs", ()))
            choices.append(_choice(len(choices), before + text, scores, told["finish_reason"]))
    head = envelope(TEXT, PREFIX, answers[0].job)
    return head | {"choices": choices, "usage": usage(answers, choices=1)}


async def _stream(asked: Asked, body: CompletionRequest) -> Response:
    head = envelope(TEXT, PREFIX, await asked.first_job())
    begun: set[int] = set()

    def prompt(index: int) -> str:
        asked_for = body.prompts[index // body.choices]
        return asked_for if body.echo and isinstance(asked_for, str) else ""

    def echo(index: int) -> str:
        if index in begun:
            return ""
        begun.add(index)
        return prompt(index)

    def piece(index: int, text: str) -> list[dict[str, Any]]:
        return [_choice(index, echo(index) + text)]

    def last(index: int, answer: Answer) -> list[dict[str, Any]]:
        told = answer.metadata
        scores = text_logprobs(told, prompt(index), told.get("prompt_logprobs", ()))
        return [_choice(index, echo(index), scores, told["finish_reason"])]

    return AnswerStream(
        asked, head, piece, last, with_usage=body.with_usage, choices=body.choices
    ).response()


def _prompt_of(answer: Answer) -> str:
    """What was to be continued; the worker tells the text of tokens."""
    prompt: str | None = json.loads(answer.job.input or "{}").get("prompt")
    return answer.metadata.get("prompt_text", "") if prompt is None else prompt


def _choice(
    index: int, text: str, logprobs: dict[str, Any] | None = None, reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
