"""What /v1 answers, for OpenAPI."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class ErrorContent(BaseModel):
    """What went wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every 4xx and 5xx answer."""

    error: ErrorContent


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 413, 429, 500, 503, 504)
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/json": {}, "text/event-stream": {}},
        "description": "The answer; with `stream` its pieces, and [DONE] at the end",
    }
}
