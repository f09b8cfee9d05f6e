"""Errors as OpenAI's clients read them: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mnemos.http import ApiError, allowed_methods, describe_validation_errors

from ..errors import CortexError, StorageUnavailableError
from ..records import JobRecord
from ..state_machine import JobState

NO_RETRY = {"x-should-retry": "false"}
"""A job that failed was tried as often as its policy says: no client need try it again."""

_OURS = ("input.parameters.", "body.", "input.")
_STATUS_BY_CODE = {
    "invalid_input": 400,
    "model_not_found": 404,
    "cancelled": 400,
    "timeout": 504,
    "insufficient_resources": 503,
    "runtime_unavailable": 503,
    "storage_unavailable": 503,
}
_RETRY_SECONDS = "2"
_FIELD = re.compile(r"([a-z_]+): ")


def refusal(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """A 400: the request is not what it must be."""
    return ApiError(400, code, message, param)


def error_body(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error answer, and the data of an error event."""
    safe = message.encode("utf-8", "replace").decode("utf-8")
    return {"error": {"message": safe, "type": _type(status), "param": param, "code": code}}


def failure_of(job: JobRecord) -> ApiError:
    """What is told of a job that ended without an answer."""
    code = job.error_code or ("timeout" if job.status is JobState.TIMEOUT else job.status.value)
    message = job.error or f"The job {job.job_id} ended as {job.status.value}."
    # A worker names what is at fault as everybody does: at the beginning of its sentence.
    field = _FIELD.match(message) if code == "invalid_input" else None
    status = _STATUS_BY_CODE.get(code, 500)
    return ApiError(status, code, message, field[1] if field else None, headers=NO_RETRY)


def install_errors(app: FastAPI) -> None:
    """Let every error of `app` have that body."""
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(CortexError, _answer_cortex)
    app.add_exception_handler(Exception, _answer_fault)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if isinstance(error, ApiError):
        # Clients repeat what is answered 409; the same request would be refused again.
        status = 400 if error.status_code in (409, 422) else error.status_code
        return _answer(status, error.code, error.message, _param(error.field), headers)
    if error.status_code == 404:
        message = f"There is nothing at {request.url.path}."
        return _answer(404, "not_found", message, None, headers)
    if error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}."
        headers["Allow"] = allowed_methods(request, headers.get("Allow", ""))
        return _answer(405, "method_not_allowed", message, None, headers)
    return _answer(error.status_code, "invalid_request", f"{error.detail}", None, headers)


async def _answer_validation(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    message, field = describe_validation_errors(error.errors())
    return _answer(400, "invalid_value", message, field, {})


async def _answer_cortex(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, CortexError)
    if isinstance(error, StorageUnavailableError):
        return _answer(503, error.code, error.message, None, {"retry-after": _RETRY_SECONDS})
    return _answer(500, error.code, error.message, None, {})


async def _answer_fault(_request: Request, error: Exception) -> JSONResponse:
    """Starlette raises the error on behind this answer, so that it is logged with its trace."""
    return _answer(500, "internal", f"The service failed: {type(error).__name__}.", None, {})


def _answer(
    status: int, code: str, message: str, param: str | None, headers: dict[str, str]
) -> JSONResponse:
    return JSONResponse(error_body(status, code, message, param), status, headers)


def _param(field: str | None) -> str | None:
    """The request's own name of what is at fault."""
    for prefix in _OURS:
        if field is not None and field.startswith(prefix):
            return field.removeprefix(prefix)
    return "model" if field is not None and field.startswith("model.") else field


def _type(status: int) -> str:
    if status >= 500:
        return "server_error"
    return "rate_limit_error" if status == 429 else "invalid_request_error"
