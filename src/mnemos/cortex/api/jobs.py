"""Routes for jobs."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Response

from mnemos.http import ApiError, invalid_input

from ..records import JobFilter, JobRecord, NewJob, Submitted
from ..state_machine import JobState
from ..store import MAX_PAGE_BYTES
from . import documents
from .context import ApiContext, Cortex
from .cursors import read_cursor, write_cursor
from .ownership import check_own, job_of, owner_filter
from .schemas import JobSubmit, Key, Moment
from .submission import parse_job
from .views import attempt_view, job_view, json_response
from .waiting import waiting_for

MAX_BATCH = 1000
JOBS_BETWEEN_PAUSES = 32

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.post(
    "",
    status_code=201,
    summary="Submit a job",
    response_model=documents.Job,
    responses={200: {"model": documents.Job}, **documents.errors(404, 409, 413, 422, 429, 503)},
)
async def submit_job(
    job: JobSubmit,
    cortex: Cortex,
    idempotency_key: Annotated[Key | None, Header()] = None,
) -> Response:
    """Answer once the job is durable: 201, or 200 with the job that the key gave before."""
    return await answer_submitted(cortex, await cortex.preparation.prepare(job, idempotency_key))


async def answer_submitted(cortex: ApiContext, new: NewJob) -> Response:
    """Store a job and answer with it as it was stored, or as it is if it was there before."""
    [stored] = await cortex.submit([new])
    if stored.conflict is not None:
        raise ApiError(409, "conflict", stored.conflict, "idempotency_key")
    if stored.submitted_at is not None:
        return json_response(job_view(_as_stored(new, stored.submitted_at)), 201)
    return await _job_answer(cortex, stored.job_id, 201 if stored.created else 200)


@router.post(
    "/batch",
    summary="Submit many jobs at once",
    response_model=documents.BatchResults,
    responses=documents.errors(413, 422, 429, 503),
)
async def submit_batch(
    jobs: Annotated[list[Any], Body(embed=True, max_length=MAX_BATCH)], cortex: Cortex
) -> Response:
    """Store every good job in one commit, and say of each bad one what is wrong with it."""
    results: list[dict[str, Any]] = [{"index": index} for index in range(len(jobs))]
    good: list[tuple[int, NewJob]] = []
    preparation = cortex.preparation
    for index, body in enumerate(jobs):
        if index % JOBS_BETWEEN_PAUSES == 0:
            await asyncio.sleep(0)  # others are served between
        try:
            good.append((index, await preparation.prepare(parse_job(body))))
        except ApiError as error:
            results[index]["error"] = _error_line(error)
    stored = await cortex.submit([new for _, new in good])
    for (index, _), one in zip(good, stored, strict=True):
        results[index].update(_stored_line(one))
    return json_response({"results": results})


@router.get(
    "",
    summary="List jobs",
    response_model=documents.JobPage,
    responses=documents.errors(422, 503),
)
async def list_jobs(
    cortex: Cortex,
    status: Annotated[list[JobState] | None, Query()] = None,
    model: Annotated[str | None, Query(description="family or family:version")] = None,
    worker_id: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    error_code: Annotated[str | None, Query(description="only dead letters with it")] = None,
    submitted_after: Moment | None = None,
    submitted_before: Moment | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: str | None = None,
    *,
    full: bool = False,
) -> Response:
    """Jobs that match every filter, newest first."""
    family, _, version = (model or "").partition(":")
    query = JobFilter(
        statuses=tuple(status or ()),
        family=family or None,
        version=version or None,
        worker_id=worker_id,
        group=cortex.principal.own_name(group) if group else None,
        job_type=job_type,
        error_code=error_code,
        key_id=owner_filter(cortex),
        submitted_after=_seconds(submitted_after),
        submitted_before=_seconds(submitted_before),
        before_seq=None if cursor is None else read_cursor(cursor, "cursor"),
        limit=limit + 1,
        full=full,
    )
    found = await cortex.store.list_jobs(query)
    filled = sum(job.payload_bytes for job in found) >= MAX_PAGE_BYTES
    more = len(found) > limit or filled
    page = found[:limit]
    next_cursor = write_cursor(page[-1].seq) if more else None
    views = [job_view(job, full=full) for job in page]
    return json_response({"jobs": views, "next_cursor": next_cursor})


@router.get(
    "/{job_id}",
    summary="Show a job",
    response_model=documents.JobDetail,
    responses=documents.errors(404, 503),
)
async def get_job(job_id: str, cortex: Cortex) -> Response:
    """A job, its attempts, and what it waits for if it does."""
    job = await job_of(cortex, job_id)
    attempts = await cortex.store.get_attempts(job_id)
    view = job_view(job)
    view["attempts"] = [attempt_view(attempt) for attempt in attempts]
    view["waiting_for"] = view["waiting_reason"] = None
    if job.status is JobState.PENDING:
        waits = waiting_for(job, await cortex.store.list_workers(), time.time())
        view["waiting_for"] = asdict(waits)
        view["waiting_reason"] = waits.message
    return json_response(view)


@router.delete(
    "/{job_id}",
    summary="Cancel a job",
    response_model=documents.Job,
    responses=documents.errors(404, 409, 503),
)
@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job",
    response_model=documents.Job,
    responses=documents.errors(404, 409, 503),
)
async def cancel_job(job_id: str, cortex: Cortex) -> Response:
    """Stop a job at once while it waits, through its worker while it runs."""
    await check_own(cortex, job_id)
    await cortex.store.cancel_job(job_id)
    return await _job_answer(cortex, job_id)


@router.post(
    "/{job_id}/retry",
    summary="Run an ended job again",
    response_model=documents.Job,
    responses=documents.errors(404, 409, 429, 503),
)
async def retry_job(job_id: str, cortex: Cortex) -> Response:
    """Put a failed, timed out or cancelled job back in the queue."""
    await check_own(cortex, job_id)
    await cortex.quotas.check_room(cortex.principal.key_id)
    await cortex.store.retry_job(job_id)
    return await _job_answer(cortex, job_id)


def _as_stored(new: NewJob, submitted_at: float) -> JobRecord:
    return JobRecord(
        seq=0,  # not shown
        job_id=new.job_id,
        status=JobState.PENDING,
        job_type=new.job_type,
        priority=new.priority,
        family=new.family,
        version=new.version,
        runtime=new.runtime,
        runtime_config=new.runtime_config,
        input=new.input,
        timeout_seconds=new.timeout_seconds,
        retry_config=new.retry_config,
        metadata=new.metadata,
        min_memory_mb=new.min_memory_mb,
        min_gpu_memory_mb=new.min_gpu_memory_mb,
        tags=json.dumps(dict(sorted(new.tags.items()))),
        group=new.group,
        idempotency_key=new.idempotency_key,
        trace=new.trace,
        attempt=0,
        retries_used=0,
        engine_crashes=0,
        lost_workers=0,
        worker_id=None,
        status_message=None,
        cancel_requested=False,
        delayed=False,
        submitted_at=submitted_at,
        available_at=submitted_at,
        started_at=None,
        finished_at=None,
        finish_seq=None,
        result=None,
        output_metadata=None,
        metrics=None,
        error_code=None,
        error=None,
        error_retryable=None,
        key_id=new.key_id,
    )


async def _job_answer(cortex: ApiContext, job_id: str, status: int = 200) -> Response:
    return json_response(job_view(await cortex.store.get_job(job_id)), status)


def _seconds(moment: datetime | None) -> float | None:
    if moment is None:
        return None
    try:
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return aware.timestamp()
    except (OverflowError, ValueError) as error:
        raise invalid_input("The time is out of range.") from error


def _error_line(error: ApiError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "field": error.field}


def _stored_line(stored: Submitted) -> dict[str, Any]:
    if stored.conflict is not None:
        line = {"code": "conflict", "message": stored.conflict, "field": "idempotency_key"}
        return {"error": line}
    return {
        "job_id": stored.job_id,
        "status": stored.status.value,
        "created": stored.created,
    }
