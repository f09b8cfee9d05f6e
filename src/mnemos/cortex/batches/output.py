"""Lines of a batch's two files: what was answered, and what was not."""

from __future__ import annotations

import json
from typing import Any

from mnemos.http import ApiError

from ..api.context import ApiContext
from ..openai import chat, completions, embeddings
from ..openai.asking import Answer, read_answer
from ..openai.errors import error_body
from ..records import JobRecord
from .records import Fault

_WORDS = {
    "batch_expired": "The batch's time was over before this request was answered.",
    "batch_cancelled": "The batch was cancelled before this request was answered.",
    "result_missing": "The answer is kept no longer.",
}


def line_number(job: JobRecord) -> int:
    """Which line of the batch's file a job answers."""
    number: int = json.loads(job.metadata)["line"]
    return number


async def answered(cortex: ApiContext, job: JobRecord, endpoint: str) -> dict[str, Any]:
    """The line of an answer. Raises ApiError for a job that brought none."""
    told = json.loads(job.metadata)
    answer = await read_answer(cortex, job)
    body = _body(answer, told, endpoint)
    response = {"status_code": 200, "request_id": job.job_id, "body": body}
    return _line(job.job_id, told["custom_id"], response)


def refused(job: JobRecord, error: ApiError) -> dict[str, Any]:
    """The line of a job that brought no answer."""
    told = json.loads(job.metadata)
    body = error_body(error.status_code, error.code, error.message, error.field)
    response = {"status_code": error.status_code, "request_id": job.job_id, "body": body}
    return _line(job.job_id, told["custom_id"], response)


def faulty(batch_id: str, fault: Fault) -> dict[str, Any]:
    """The line of a request that was refused."""
    name = f"{batch_id}_{fault.line}"
    error = json.loads(fault.error)
    body = error_body(fault.status, error["code"], error["message"], error["param"])
    response = {"status_code": fault.status, "request_id": name, "body": body}
    return _line(name, fault.custom_id, response)


def left_out(batch_id: str, number: int, custom_id: str, code: str) -> dict[str, Any]:
    """The line of a request that has no answer because of its batch."""
    error = {"code": code, "message": _WORDS[code]}
    return _line(f"{batch_id}_{number}", custom_id, None, error)


def _body(answer: Answer, told: dict[str, Any], endpoint: str) -> dict[str, Any]:
    if endpoint == "/v1/chat/completions":
        return chat.completion_of(answer)
    if endpoint == "/v1/completions":
        return completions.completion_of([answer], echo=bool(told.get("echo")))
    return embeddings.embeddings_of(
        answer,
        packed=told.get("encoding_format") == "base64",
        dimensions=told.get("dimensions"),
    )


def _line(
    name: str,
    custom_id: str,
    response: dict[str, Any] | None,
    error: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "id": f"batch_req_{name}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
