"""Answers with their ETags, and what OpenAPI says about the others."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import Header, Response
from pydantic import BaseModel

from .answers import ErrorAnswer
from .etags import digest_of, is_known, quoted

IfNoneMatch = Annotated[
    str | None, Header(description="ETags that the caller has: 304 if one is still right.")
]
IfMatch = Annotated[
    str | None, Header(description="The ETag that is to be changed: 412 if it is another by now.")
]

_WORDS = {
    304: "The caller has this answer already.",
    404: "There is no such thing; the sentence says what there is.",
    409: "Something else has this name, or uses it.",
    412: "It has changed meanwhile.",
    413: "The body is larger than 16 MiB.",
    422: "The input is not what it must be.",
    503: "The database is away: try again after Retry-After seconds.",
}


Responses = dict[int | str, dict[str, Any]]


def errors(*statuses: int) -> Responses:
    """Describe answers that are errors, for OpenAPI."""
    return {
        status: {"description": _WORDS[status]} | ({} if status == 304 else {"model": ErrorAnswer})
        for status in sorted({*statuses, 422, 503})
    }


def reply(
    answer: BaseModel | dict[str, Any],
    *,
    digest: str | None = None,
    if_none_match: str | None = None,
    status: int = 200,
) -> Response:
    """Answer in JSON with an ETag: of `digest`, or of the whole answer; 304 if it is known."""
    if isinstance(answer, BaseModel):
        text = answer.model_dump_json()
    else:
        text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    digest = digest or digest_of(text)
    if is_known(if_none_match, digest):
        return not_modified(digest)
    return Response(text, status, _headers(digest), media_type="application/json")


def not_modified(digest: str) -> Response:
    """Answer 304."""
    return Response(status_code=304, headers=_headers(digest))


def _headers(digest: str) -> dict[str, str]:
    return {"ETag": quoted(digest), "Cache-Control": "no-cache"}
