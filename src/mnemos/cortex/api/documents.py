"""What the HTTP API gives, for OpenAPI. Answers are encoded by views.py, not by these."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from .schemas import Requirements, Retry
from .waiting import Code


class ErrorContent(BaseModel):
    """What went wrong."""

    code: str
    message: str
    field: str | None


class ErrorBody(BaseModel):
    """The body of every 4xx and 5xx answer."""

    error: ErrorContent


class JobModel(BaseModel):
    """The model that runs a job."""

    family: str
    version: str
    runtime: str
    runtime_config: dict[str, Any]


class JobError(BaseModel):
    """Why a job ended without an answer."""

    code: str
    message: str
    retryable: bool


class Job(BaseModel):
    """A job. Lists leave out input, result, output_metadata and metrics unless asked.

    A cancelled or timed-out job has the result that it had got to, if its worker told.
    `engine_crashes` is there where engines died under the job, `lost_workers` where workers did,
    `key_id` where it was submitted with an API key.
    """

    job_id: str
    status: str
    job_type: str
    priority: int
    model: JobModel
    input: dict[str, Any] | None = None
    timeout_seconds: int
    retry_config: Retry
    metadata: dict[str, Any]
    requirements: Requirements
    group: str | None
    idempotency_key: str | None
    key_id: str | None = None
    trace: str | None
    attempt: int
    retries_used: int
    engine_crashes: int | None = None
    lost_workers: int | None = None
    worker_id: str | None
    status_message: str | None
    cancel_requested: bool
    submitted_at: str
    started_at: str | None
    finished_at: str | None
    result: Any | None = None
    output_metadata: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    error: JobError | None


class Attempt(BaseModel):
    """One attempt at a job."""

    attempt: int
    worker_id: str
    started_at: str
    ended_at: str | None
    outcome: str | None
    error_code: str | None
    error: str | None


class WaitingFor(BaseModel):
    """What must come before a worker takes a job."""

    code: Code
    message: str


class JobDetail(Job):
    """A job with its history; `waiting_reason` is the message of `waiting_for`."""

    attempts: list[Attempt]
    waiting_for: WaitingFor | None
    waiting_reason: str | None


class JobPage(BaseModel):
    """Some jobs, newest first."""

    jobs: list[Job]
    next_cursor: str | None


class BatchLine(BaseModel):
    """What became of one job of a batch."""

    index: int
    job_id: str | None = None
    status: str | None = None
    created: bool | None = None
    error: ErrorContent | None = None


class BatchResults(BaseModel):
    """One line for each job of a batch, in its order."""

    results: list[BatchLine]


class Counts(BaseModel):
    """How a group stands."""

    total: int
    pending: int
    running: int
    finished: int


class GroupPage(BaseModel):
    """Finished jobs of a group, in finishing order."""

    jobs: list[Job]
    next_cursor: str
    counts: Counts


class CancelledCount(BaseModel):
    """How many jobs were asked to stop."""

    cancelled: int


class Worker(BaseModel):
    """A worker."""

    worker_id: str
    hostname: str
    ip_address: str
    version: str
    status: str
    desired_state: str
    status_reason: str
    capabilities: dict[str, Any]
    resources: dict[str, Any]
    tags: dict[str, str]
    models: list[dict[str, Any]]
    current_jobs: list[str]
    total_jobs_completed: int
    total_jobs_failed: int
    last_heartbeat: str
    registered_at: str


class WorkerList(BaseModel):
    """All workers."""

    workers: list[Worker]


class ModelQueue(BaseModel):
    """One model's share of the queue."""

    family: str
    version: str
    runtime: str
    pending: int
    running: int


class Queue(BaseModel):
    """The queue at this moment."""

    pending: int
    running: int
    delayed: int
    oldest_pending_seconds: float
    by_priority: dict[str, int]
    by_model: list[ModelQueue]


class ModelDemand(BaseModel):
    """One model's share of what is wanted."""

    family: str
    version: str
    runtime: str
    min_memory_mb: int
    min_gpu_memory_mb: int
    waiting: int
    running: int


class Demand(BaseModel):
    """How many workers of a kind the queue wants."""

    workers_wanted: int
    waiting: int
    running: int
    oldest_waiting_seconds: float
    models: list[ModelDemand]


class Stats(BaseModel):
    """Counts over everything stored."""

    jobs: dict[str, int]
    workers: dict[str, int]
    tokens_generated: int
    leases_expired: int


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route says of its error answers."""
    words = {
        401: "An API key is asked for",
        403: "The API key lacks the scope",
        404: "There is no such thing",
        409: "It is in another state than this needs",
        410: "It is kept no longer",
        413: "The body is too large",
        422: "The body or a parameter is not valid",
        429: "The API key's limits are reached",
        503: "Try again in a moment",
    }
    return {
        status: {"model": ErrorBody, "description": words[status]}
        for status in (401, 403, *statuses)
    }
