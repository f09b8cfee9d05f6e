"""Messages from workers, as records. What a worker cannot be held to is mended here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any

import msgspec

from mnemos.protocol.v1 import cortex_pb2 as pb

from ..records import (
    AttemptRef,
    Chunk,
    ClaimRequest,
    FinishedRow,
    HeartbeatRecord,
    LoadedModel,
    Model,
    ModelKey,
    Registration,
    Release,
    Report,
    StatusUpdate,
)
from ..state_machine import JobState
from .words import JOB_STATE_BY_NUMBER, error_code_word, job_type_word, worker_status_word

MAX_TEXT = 10_000
MAX_CACHED_MODELS = 256
MAX_MEGABYTES = 2**40
_WORKER_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_EMPTY = ("", "{}")
_read_object = msgspec.json.Decoder(dict[str, Any]).decode
_FORWARD = {JobState.LOADING_MODEL, JobState.EXECUTING, JobState.STREAMING}
_REPORTABLE = {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.TIMEOUT}


class RefusedError(Exception):
    """A message that makes no sense; one sentence."""


def registration(request: pb.RegisterWorkerRequest, worker_id: str) -> Registration:
    """Read who a worker is. Raises RefusedError when it could run nothing."""
    told = request.capabilities
    if not _WORKER_ID.fullmatch(worker_id):
        raise RefusedError("worker_id must be up to 128 letters, digits, '.', '_' or '-'.")
    if not told.supported_runtimes:
        raise RefusedError("A worker must offer at least one runtime.")
    capabilities = {
        "supported_runtimes": list(told.supported_runtimes),
        "max_concurrent_jobs": told.max_concurrent_jobs or 1,
        "supports_streaming": told.supports_streaming,
        "supports_gpu": told.supports_gpu,
        "max_model_size_gb": _finite(told.max_model_size_gb),
        "max_batch_size": told.max_batch_size or 1,
        "job_types": [job_type_word(number) for number in told.job_types],
        "unavailable_runtimes": dict(told.unavailable_runtimes),
    }
    return Registration(
        worker_id=worker_id,
        instance_id=request.instance_id,
        hostname=request.hostname,
        ip_address=request.ip_address,
        version=request.version,
        capabilities=json.dumps(capabilities),
        resources=json.dumps(_resources(request.resources)),
        tags=json.dumps(dict(request.tags)),
    )


def heartbeat(request: pb.HeartbeatRequest) -> HeartbeatRecord:
    """Read how a worker is."""
    known = request.HasField("resources")
    return HeartbeatRecord(
        worker_id=request.worker_id,
        status=worker_status_word(request.status),
        status_reason=request.status_reason[:MAX_TEXT],
        resources=json.dumps(_resources(request.resources)) if known else None,
        models=json.dumps([_model(model) for model in request.models]),
        acknowledged_actions=list(request.acknowledged_action_ids),
        instance_id=request.instance_id,
    )


def models_had(request: pb.HeartbeatRequest) -> set[Model]:
    """Read which models' files a worker has: those in its cache, and what is loaded of them."""
    loaded = {Model(model.family, model.version) for model in request.models}
    cached = request.cached_models[:MAX_CACHED_MODELS]
    return loaded | {Model(model.family, model.version) for model in cached}


def claim_request(request: pb.AcquireJobRequest, on_disk: Collection[Model] = ()) -> ClaimRequest:
    """Read what a worker asks for, that has these models' files."""
    return ClaimRequest(
        worker_id=request.worker_id,
        max_jobs=min(request.max_jobs, 1024),
        instance_id=request.instance_id,
        request_id=request.request_id,
        models=[_loaded(model) for model in request.models],
        on_disk=on_disk,
        memory_available_mb=_megabytes(request.memory_available_mb),
        gpu_memory_available_mb=_megabytes(request.gpu_memory_available_mb),
    )


def attempt_ref(ref: pb.AttemptRef) -> AttemptRef:
    """Read what a lease is on."""
    return AttemptRef(ref.job_id, ref.attempt)


def status_update(update: pb.StatusUpdate) -> StatusUpdate:
    """Read how far a job is. Raises RefusedError for a status that only CORTEX gives."""
    status = JOB_STATE_BY_NUMBER.get(update.status)
    if status not in _FORWARD:
        raise RefusedError(
            f"A status update of {update.job_id} must be loading_model, executing or streaming."
        )
    message = update.message
    progress = update.load_progress
    if not message and update.HasField("load_progress") and progress.bytes_total:
        percent = min(100, 100 * progress.bytes_done // progress.bytes_total)
        message = f"loading model {percent} %"
    return StatusUpdate(update.job_id, update.attempt, status, message[:MAX_TEXT])


def chunk(sent: pb.StreamChunk) -> Chunk:
    """Read some tokens, or a row."""
    row = None
    if sent.HasField("row"):
        row = FinishedRow(sent.row.index, one_line_object(sent.row.result_json))
    return Chunk(sent.job_id, sent.attempt, sent.sequence, sent.content, list(sent.token_ids), row)


def release(released: pb.ReleasedJob) -> Release:
    """Read what is handed back."""
    return Release(
        released.job_id,
        released.attempt,
        released.reason[:MAX_TEXT],
        min_memory_mb=_megabytes(released.needs.min_memory_mb),
        min_gpu_memory_mb=_megabytes(released.needs.min_gpu_memory_mb),
    )


def report(result: pb.JobResult) -> Report:
    """Read how an attempt ended. A completion without a readable answer counts as a failure.

    What a cancelled or timed-out attempt had got to is kept if it can be read.
    """
    status = JOB_STATE_BY_NUMBER.get(result.status)
    if status not in _REPORTABLE:
        raise RefusedError(f"The result of {result.job_id} must have an end status.")
    if status is JobState.COMPLETED:
        return _completion(result)
    details = result.error_details
    return Report(
        job_id=result.job_id,
        attempt=result.attempt,
        status=status,
        result=None if status is JobState.FAILED else _answer(result.output),
        output_metadata=strict_object(result.output.metadata_json),
        metrics=strict_object(result.output.metrics_json),
        error=result.error[:MAX_TEXT] or f"The attempt ended as {status}.",
        error_code=error_code_word(details.code),
        retryable=details.retryable,
        engine_jobs=details.engine_jobs,
    )


def _completion(result: pb.JobResult) -> Report:
    answer = _answer(result.output)
    if answer is None:
        return Report(
            job_id=result.job_id,
            attempt=result.attempt,
            status=JobState.FAILED,
            error="The worker reported a completed job without a readable answer.",
            error_code="internal",
            retryable=True,
        )
    return Report(
        job_id=result.job_id,
        attempt=result.attempt,
        status=JobState.COMPLETED,
        result=answer,
        output_metadata=strict_object(result.output.metadata_json),
        metrics=strict_object(result.output.metrics_json),
    )


def _answer(output: pb.JobOutput) -> str | None:
    """The answer as JSON text; None where there is none that can be read."""
    if output.HasField("result_reference"):
        reference = output.result_reference
        where = {
            "engram": reference.uri.removeprefix("engram://"),
            "size_bytes": reference.size_bytes,
            "sha256": reference.sha256,
        }
        return json.dumps({"result_reference": where})
    return strict_json(output.result_json) if output.result_json else None


def strict_json(text: str) -> str | None:
    """Return `text` if it is JSON, mended where it only holds NaN or infinities, else None."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    else:
        return text
    try:
        return json.dumps(_without_nan(json.loads(text)), allow_nan=False)
    except (ValueError, RecursionError):
        return None


def strict_object(text: str) -> str:
    """As `strict_json`, but whatever is no JSON object becomes an empty one."""
    if text in _EMPTY:
        return "{}"
    try:
        _read_object(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    else:
        return text
    mended = strict_json(text)
    return mended if mended and mended.lstrip().startswith("{") else "{}"


def one_line_object(text: str) -> str:
    """As `strict_object`, without the line breaks that would end an event early."""
    return msgspec.json.format(strict_object(text), indent=-1)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return value


def _megabytes(number: int) -> int:
    return min(number, MAX_MEGABYTES)


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0


def _resources(told: pb.SystemResources) -> dict[str, Any]:
    return {
        "cpu_count": told.cpu_count,
        "cpu_percent": _finite(told.cpu_percent),
        "memory_total_mb": told.memory_total_mb,
        "memory_available_mb": told.memory_available_mb,
        "disk_total_gb": _finite(told.disk_total_gb),
        "disk_available_gb": _finite(told.disk_available_gb),
        "gpus": [_gpu(gpu) for gpu in told.gpus],
    }


def _gpu(told: pb.GpuInfo) -> dict[str, Any]:
    celsius = told.temperature_celsius if told.HasField("temperature_celsius") else None
    watts = told.power_watts if told.HasField("power_watts") else None
    return {
        "index": told.index,
        "name": told.name,
        "uuid": told.uuid if told.HasField("uuid") else None,
        "total_memory_mb": told.total_memory_mb,
        "available_memory_mb": told.available_memory_mb,
        "utilization_percent": _finite(told.utilization_percent),
        "temperature_celsius": None if celsius is None else _finite(celsius),
        "power_watts": None if watts is None else _finite(watts),
    }


def _loaded(told: pb.LoadedModel) -> LoadedModel:
    return LoadedModel(
        ModelKey(told.family, told.version, told.runtime),
        load_seconds=_finite(told.load_seconds),
        memory_mb=_megabytes(told.memory_mb),
        active_jobs=told.active_jobs,
    )


def _model(told: pb.LoadedModel) -> dict[str, Any]:
    return {
        "family": told.family,
        "version": told.version,
        "runtime": told.runtime,
        "load_seconds": _finite(told.load_seconds),
        "memory_mb": told.memory_mb,
        "active_jobs": told.active_jobs,
    }
