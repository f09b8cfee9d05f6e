"""How records look in JSON. Stored JSON is spliced in as it is, never parsed again."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from fastapi import Response

from ..clock import as_text
from ..principal import shown_name
from ..records import AttemptRecord, JobRecord, WorkerRecord

_encoder = msgspec.json.Encoder()


def json_response(content: Any, status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(_encoder.encode(content), status, media_type="application/json")


def encode(content: Any) -> bytes:
    """Return content as JSON."""
    return _encoder.encode(content)


def _raw(text: str | None, default: str) -> msgspec.Raw:
    return msgspec.Raw((text or default).encode())


def job_view(job: JobRecord, *, full: bool = True) -> dict[str, Any]:
    """A job; `full` says whether with its input and result."""
    view: dict[str, Any] = {
        "job_id": job.job_id,
        "status": job.status.value,
        "job_type": job.job_type,
        "priority": job.priority,
        "model": {
            "family": job.family,
            "version": job.version,
            "runtime": job.runtime,
            "runtime_config": _raw(job.runtime_config, "{}"),
        },
        "timeout_seconds": job.timeout_seconds,
        "retry_config": _raw(job.retry_config, "{}"),
        "metadata": _raw(job.metadata, "{}"),
        "requirements": {
            "min_memory_mb": job.min_memory_mb,
            "min_gpu_memory_mb": job.min_gpu_memory_mb,
            "tags": _raw(job.tags, "{}"),
        },
        "group": shown_name(job.group, job.key_id),
        "idempotency_key": shown_name(job.idempotency_key, job.key_id),
        "trace": job.trace,
        "attempt": job.attempt,
        "retries_used": job.retries_used,
        "worker_id": job.worker_id,
        "status_message": job.status_message,
        "cancel_requested": job.cancel_requested,
        "submitted_at": as_text(job.submitted_at),
        "started_at": as_text(job.started_at),
        "finished_at": as_text(job.finished_at),
        "error": _error_view(job),
    }
    if job.key_id:
        view["key_id"] = job.key_id
    if job.engine_crashes:
        view["engine_crashes"] = job.engine_crashes
    if job.lost_workers:
        view["lost_workers"] = job.lost_workers
    if full:
        view["input"] = _raw(job.input, "{}")
        view["result"] = _raw(job.result, "null")
        view["output_metadata"] = _raw(job.output_metadata, "{}")
        view["metrics"] = _raw(job.metrics, "{}")
    return view


def _error_view(job: JobRecord) -> dict[str, Any] | None:
    if job.error_code is None:
        return None
    retryable = bool(job.error_retryable)
    return {"code": job.error_code, "message": job.error or "", "retryable": retryable}


def attempt_view(attempt: AttemptRecord) -> dict[str, Any]:
    """One attempt of a job's history."""
    return {
        "attempt": attempt.attempt,
        "worker_id": attempt.worker_id,
        "started_at": as_text(attempt.started_at),
        "ended_at": as_text(attempt.ended_at),
        "outcome": attempt.outcome,
        "error_code": attempt.error_code,
        "error": attempt.error,
    }


def worker_view(worker: WorkerRecord) -> dict[str, Any]:
    """A worker."""
    return {
        "worker_id": worker.worker_id,
        "hostname": worker.hostname,
        "ip_address": worker.ip_address,
        "version": worker.version,
        "status": worker.shown_status,
        "desired_state": worker.desired_state.value,
        "status_reason": worker.status_reason,
        "capabilities": json.loads(worker.capabilities),
        "resources": json.loads(worker.resources),
        "tags": json.loads(worker.tags),
        "models": json.loads(worker.models),
        "current_jobs": list(worker.current_jobs),
        "total_jobs_completed": worker.total_jobs_completed,
        "total_jobs_failed": worker.total_jobs_failed,
        "last_heartbeat": as_text(worker.last_heartbeat),
        "registered_at": as_text(worker.registered_at),
    }
