"""The route for one job's answer, whatever its size."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import structlog
from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from mnemos.engram.errors import EngramError, ObjectNotFoundError
from mnemos.http import ApiError

from ..big_results import (
    INLINE,
    KIND_HEADER,
    REFERENCE,
    STORED,
    ResultObjects,
    StoredResult,
    read_reference,
)
from ..records import JobRecord
from ..state_machine import TERMINAL
from . import documents
from .context import ApiContext, Cortex
from .ownership import job_of

router = APIRouter(prefix="/jobs", tags=["jobs"])
_log = structlog.get_logger(__name__)


@router.get(
    "/{job_id}/result",
    summary="Get a job's answer alone, of any size",
    responses=documents.errors(404, 409, 503),
)
async def get_result(job_id: str, cortex: Cortex) -> Response:
    """The answer as JSON; one that lies in ENGRAM is read from there and checked.

    The header Mnemos-Result says `inline`, `stored`, or `reference` where this CORTEX has no
    access to ENGRAM and can only tell where the answer lies. An answer that turns out to be
    damaged ends before its last bytes.
    """
    job = await job_of(cortex, job_id)
    result = _result_of(job)
    stored = read_reference(result, job_id)
    if stored is None:
        return _json(result, INLINE)
    if cortex.results is None or not cortex.results.holds(stored):
        return _json(result, REFERENCE)
    await _check(cortex.results, stored)
    return StreamingResponse(
        _pieces(cortex.results, stored),
        media_type="application/json",
        headers={"Content-Length": str(stored.size_bytes), KIND_HEADER: STORED},
    )


def _result_of(job: JobRecord) -> str:
    if job.result is not None:
        return job.result
    if job.status not in TERMINAL:
        raise ApiError(409, "conflict", f"The job has no result yet: it is {job.status.value}.")
    raise ApiError(404, "result_not_found", f"The job ended as {job.status.value}, without one.")


async def whole_result(cortex: ApiContext, job: JobRecord) -> str:
    """The answer's JSON, from ENGRAM if it lies there. Raises ApiError."""
    result = _result_of(job)
    stored = read_reference(result, job.job_id)
    if stored is None:
        return result
    if cortex.results is None or not cortex.results.holds(stored):
        message = "The answer lies in ENGRAM, and this CORTEX has no access to it."
        raise ApiError(500, "storage_unavailable", message)
    await _check(cortex.results, stored)
    try:
        return b"".join([piece async for piece in cortex.results.read(stored)]).decode()
    except EngramError as error:
        raise ApiError(503 if error.retryable else 500, error.code, error.message) from error


def _json(text: str, kind: str) -> Response:
    return Response(text, media_type="application/json", headers={KIND_HEADER: kind})


async def _check(results: ResultObjects, stored: StoredResult) -> None:
    try:
        await results.check(stored)
    except ObjectNotFoundError as error:
        raise ApiError(404, "result_not_found", error.message) from error
    except EngramError as error:
        status = 503 if error.retryable else 500
        raise ApiError(status, error.code, error.message) from error


async def _pieces(results: ResultObjects, stored: StoredResult) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in results.read(stored):
            yield piece
    except EngramError as error:
        _log.error("result.not_delivered", key=stored.key, error=error.message)
        raise
