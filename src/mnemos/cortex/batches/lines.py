"""From a line of a batch's file to the job that answers it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mnemos.http import ApiError, describe_validation_errors

from ..openai.errors import refusal
from ..openai.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from .records import LineError

PRIORITY = 3
"""Behind what somebody waits for (5 and 7), unless a line says otherwise."""

_KINDS: dict[str, type[ChatRequest | CompletionRequest | EmbeddingRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
}
ENDPOINTS = tuple(_KINDS)
_MAX_CUSTOM_ID = 512


class LineProblemError(Exception):
    """A line that is no request at all: its batch is refused."""

    def __init__(self, error: LineError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True)
class Line:
    """A request, whose body may still be wrong."""

    number: int
    custom_id: str
    body: dict[str, Any]


def parse_line(number: int, raw: bytes, endpoint: str) -> Line:
    """Read a line. Raises LineProblemError."""
    try:
        told = json.loads(raw)
    except (ValueError, RecursionError):
        raise _problem(number, "invalid_json_line", "This line is not JSON.") from None
    if not isinstance(told, dict):
        raise _problem(number, "invalid_json_line", "This line is not a JSON object.")
    custom_id, body = told.get("custom_id"), told.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MAX_CUSTOM_ID:
        message = f"custom_id: is a text of 1 to {_MAX_CUSTOM_ID} characters."
        raise _problem(number, "invalid_custom_id", message, "custom_id")
    if not _is_unicode(custom_id) or "\0" in custom_id:
        message = "custom_id: is not Unicode, or holds a NUL."
        raise _problem(number, "invalid_custom_id", message, "custom_id")
    if told.get("method") != "POST":
        raise _problem(number, "invalid_method", "method: is POST.", "method")
    if told.get("url") != endpoint:
        message = f"url: is {endpoint}, the endpoint of the batch."
        raise _problem(number, "mismatched_url", message, "url")
    if not isinstance(body, dict):
        raise _problem(number, "missing_body", "body: is a JSON object.", "body")
    return Line(number, custom_id, body)


def job_of(line: Line, batch_id: str, endpoint: str) -> dict[str, Any]:
    """The job that answers a line, as `POST /api/v1/jobs` takes it. Raises ApiError.

    Its key and its group make it one and the same job, however often it is submitted.
    """
    try:
        request = _KINDS[endpoint].model_validate(line.body)
    except ValidationError as error:
        message, field = describe_validation_errors(error.errors(include_url=False))
        raise refusal(message, field) from error
    if getattr(request, "stream", None):
        raise refusal("stream: nobody reads along in a batch.", "stream")
    jobs = request.jobs(endpoint)
    if len(jobs) != 1:
        raise refusal("prompt: a line has one; send one line for each.", "prompt")
    [job] = jobs
    job["metadata"] |= {"line": line.number, "custom_id": line.custom_id} | _wishes(request)
    if "priority" not in line.body:
        job["priority"] = PRIORITY
    return {**job, "group": batch_id, "idempotency_key": f"{batch_id}/{line.number}"}


def error_json(error: ApiError) -> dict[str, Any]:
    """A refusal as it is told in a file of errors."""
    return {"message": error.message, "code": error.code, "param": error.field}


def _wishes(request: ChatRequest | CompletionRequest | EmbeddingRequest) -> dict[str, Any]:
    """What must be known of the request when it is answered."""
    names = ("echo", "encoding_format", "dimensions")
    given = {name: getattr(request, name, None) for name in names}
    return {name: value for name, value in given.items() if value}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(number: int, code: str, message: str, param: str | None = None) -> LineProblemError:
    return LineProblemError(LineError(code, message, number, param))
