"""Between the worker's pydantic models and the contract's messages: jobs.

Generated types stop in this package.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError

from mnemos.protocol.v1 import cortex_pb2 as pb

from ..errors import ErrorCode
from ..models.job import (
    ErrorDetails,
    JobResult,
    JobSpec,
    JobStatus,
    JobType,
    LeasedJob,
    ModelConfig,
    Requirements,
    ResumeState,
    RetryConfig,
    RowResult,
    StreamChunk,
)
from ..models.lease import (
    AcquiredJobs,
    AttemptRef,
    RefusedJob,
    ReleasedJob,
    StatusUpdate,
    StreamAck,
    Verdict,
)

_JOB_STATUS = {status: pb.JobStatus.Value(f"JOB_STATUS_{status.name}") for status in JobStatus}
_JOB_TYPE = {kind: pb.JobType.Value(f"JOB_TYPE_{kind.name}") for kind in JobType}
_JOB_TYPE_BACK = {value: kind for kind, value in _JOB_TYPE.items()}
_ERROR_CODE = {code: pb.ErrorCode.Value(f"ERROR_CODE_{code.name}") for code in ErrorCode}
_ERROR_CODE_BACK = {value: code for code, value in _ERROR_CODE.items()}
_EPOCH = datetime.fromtimestamp(0, UTC)
_DAY_SECONDS = 86_400
_VERDICT_BACK = {pb.Verdict.Value(f"VERDICT_{verdict.name}"): verdict for verdict in Verdict}


def encode_json(value: Any) -> str:
    """Return compact JSON; what JSON does not know becomes text."""
    return msgspec.json.encode(value, enc_hook=str).decode()


def json_size(value: Any) -> int:
    """Return how many bytes encode_json() makes of `value`."""
    return len(msgspec.json.encode(value, enc_hook=str))


def to_text(text: str) -> str:
    """Return `text` as a message can carry it: a file's name in an error may be no Unicode."""
    return text.encode(errors="backslashreplace").decode()


def decode_json(text: str, empty: Any) -> Any:
    """Return what `text` says, or `empty` when it says nothing."""
    return msgspec.json.decode(text) if text else empty


def to_duration(seconds: float) -> Duration:
    """Return a protobuf duration."""
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


def from_duration(duration: Duration) -> float:
    """Return seconds."""
    return duration.seconds + duration.nanos / 1e9


def to_timestamp(moment: datetime) -> Timestamp:
    """Return a protobuf timestamp of an aware moment."""
    since = moment - _EPOCH
    return Timestamp(
        seconds=since.days * _DAY_SECONDS + since.seconds, nanos=since.microseconds * 1000
    )


def from_timestamp(timestamp: Timestamp) -> datetime:
    """Return an aware moment, in UTC."""
    whole = datetime.fromtimestamp(timestamp.seconds, UTC)
    return whole.replace(microsecond=timestamp.nanos // 1000)


def to_ref(ref: AttemptRef) -> pb.AttemptRef:
    """Return the message that names an attempt."""
    return pb.AttemptRef(job_id=ref.job_id, attempt=ref.attempt)


def from_verdict(value: pb.Verdict.ValueType) -> Verdict:
    """Return a verdict; one this version does not know counts as stale, the safe reading."""
    return _VERDICT_BACK.get(value, Verdict.STALE)


def from_verdicts(verdicts: Any) -> dict[AttemptRef, Verdict]:
    """Return each attempt's verdict."""
    return {AttemptRef(v.job_id, v.attempt): from_verdict(v.verdict) for v in verdicts}


def from_acquired(response: pb.AcquireJobResponse) -> AcquiredJobs:
    """Return the jobs of a response; one that cannot be read is refused alone."""
    acquired = AcquiredJobs([], [])
    for message in response.jobs:
        try:
            acquired.jobs.append(_leased(message))
        except (ValidationError, msgspec.DecodeError, KeyError, RecursionError) as error:
            ref = AttemptRef(message.job.job_id, message.attempt)
            acquired.refused.append(RefusedJob(ref, _refusal(error)))
    return acquired


def _refusal(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"the job cannot be read: {error}"
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_input=False)
    )


def _leased(message: pb.LeasedJob) -> LeasedJob:
    resume = None
    if message.HasField("resume"):
        resume = _resume_state(message.resume)
    # A time_left of zero means that the timeout ran out on the way: the job times out at once.
    time_left = from_duration(message.time_left) if message.HasField("time_left") else None
    job = _job(message.job)
    return LeasedJob(
        job=job,
        attempt=message.attempt,
        lease_seconds=from_duration(message.lease),
        time_left_seconds=job.timeout_seconds if time_left is None else max(time_left, 1e-3),
        resume=resume,
        engine_crashes=message.engine_crashes,
    )


def _resume_state(message: pb.ResumeState) -> ResumeState:
    return ResumeState(
        token_ids=list(message.token_ids),
        text=message.text,
        rows=[
            RowResult(index=row.index, result=decode_json(row.result_json, {}))
            for row in message.rows
        ],
    )


def _to_row(row: RowResult) -> pb.RowResult:
    return pb.RowResult(index=row.index, result_json=encode_json(row.result))


def _job(message: pb.JobSpec) -> JobSpec:
    document: dict[str, Any] = {
        "job_id": message.job_id,
        "job_type": _JOB_TYPE_BACK[message.job_type],
        "priority": message.priority,
        "model": _model(message.model.SerializeToString()),
        "input": _input(message.input),
        "timeout_seconds": message.timeout_seconds,
        "metadata": decode_json(message.metadata_json, {}),
        "idempotency_key": message.idempotency_key or None,
        "trace": message.trace or None,
    }
    if message.HasField("submitted_at"):
        document["submitted_at"] = from_timestamp(message.submitted_at)
    if message.HasField("retry_config"):
        document["retry_config"] = _retry_config(message.retry_config.SerializeToString())
    if message.HasField("requirements"):
        document["requirements"] = _requirements(message.requirements.SerializeToString())
    return JobSpec.model_validate(document)


def _input(message: pb.JobInput) -> dict[str, Any]:
    return {
        "prompt": message.prompt or None,
        "parameters": decode_json(message.parameters_json, {}),
        "context": message.context or None,
        "messages": [_turn(turn) for turn in message.messages] or None,
        "inputs": [decode_json(row, None) for row in message.inputs_json] or None,
        "prompt_token_ids": list(message.prompt_token_ids) or None,
    }


def _turn(message: pb.ChatMessage) -> dict[str, Any]:
    return {
        "role": message.role,
        "content": message.content,
        "tool_calls": decode_json(message.tool_calls_json, None),
        "tool_call_id": message.tool_call_id or None,
        "name": message.name or None,
    }


# Most jobs have these parts in common; nobody changes them.


@lru_cache(maxsize=256)
def _model(body: bytes) -> ModelConfig:
    message = pb.ModelRef.FromString(body)
    return ModelConfig(
        family=message.family,
        version=message.version,
        runtime=message.runtime,
        runtime_config=decode_json(message.runtime_config_json, {}),
    )


@lru_cache(maxsize=256)
def _requirements(body: bytes) -> Requirements:
    message = pb.Requirements.FromString(body)
    return Requirements(
        min_memory_mb=message.min_memory_mb,
        min_gpu_memory_mb=message.min_gpu_memory_mb,
        tags=dict(message.tags),
    )


@lru_cache(maxsize=256)
def _retry_config(body: bytes) -> RetryConfig:
    message = pb.RetryConfig.FromString(body)
    return RetryConfig(
        max_retries=message.max_retries,
        initial_backoff_seconds=from_duration(message.initial_backoff),
        max_backoff_seconds=from_duration(message.max_backoff),
        retryable_codes=[
            _ERROR_CODE_BACK[code] for code in message.retryable_codes if code in _ERROR_CODE_BACK
        ],
    )


def to_status_update(update: StatusUpdate) -> pb.StatusUpdate:
    """Return the message of a status update."""
    message = pb.StatusUpdate(
        job_id=update.ref.job_id,
        attempt=update.ref.attempt,
        status=_JOB_STATUS[update.status],
        message=to_text(update.message),
    )
    if update.bytes_total:
        message.load_progress.bytes_done = update.bytes_done
        message.load_progress.bytes_total = update.bytes_total
    return message


def to_chunk(chunk: StreamChunk) -> pb.StreamChunk:
    """Return the message of a stream chunk."""
    message = pb.StreamChunk(
        job_id=chunk.job_id,
        attempt=chunk.attempt,
        sequence=chunk.sequence,
        content=chunk.content,
        is_final=chunk.is_final,
        metadata_json=encode_json(chunk.metadata) if chunk.metadata else "",
        timestamp=to_timestamp(chunk.timestamp),
        token_ids=chunk.token_ids,
    )
    if chunk.row is not None:
        message.row.CopyFrom(_to_row(chunk.row))
    return message


def from_acks(response: pb.StreamResultResponse) -> list[StreamAck]:
    """Return the acknowledgements of a response."""
    return [
        StreamAck(AttemptRef(a.job_id, a.attempt), a.next_sequence, from_verdict(a.verdict))
        for a in response.acks
    ]


def to_result(result: JobResult) -> pb.JobResult:
    """Return the message of a result."""
    message = pb.JobResult(
        job_id=result.job_id,
        attempt=result.attempt,
        status=_JOB_STATUS[result.status],
        error=to_text(result.error or ""),
        started_at=to_timestamp(result.started_at),
        duration_seconds=result.duration_seconds or 0.0,
    )
    if result.completed_at is not None:
        message.completed_at.CopyFrom(to_timestamp(result.completed_at))
    if result.output is not None:
        if (reference := result.output.result_reference) is not None:
            message.output.result_reference.uri = f"engram://{reference.engram}"
            message.output.result_reference.size_bytes = reference.size_bytes
            message.output.result_reference.sha256 = reference.sha256
        else:
            message.output.result_json = encode_json(result.output.result)
        message.output.metadata_json = encode_json(result.output.metadata)
        message.output.metrics_json = encode_json(result.output.metrics)
    if result.error_details is not None:
        message.error_details.CopyFrom(_error_details(result.error_details))
    return message


def _error_details(details: ErrorDetails) -> pb.ErrorDetails:
    more = details.model_extra or {}
    return pb.ErrorDetails(
        code=_ERROR_CODE[details.code],
        retryable=details.retryable,
        details_json=encode_json(more) if more else "",
        engine_jobs=details.engine_jobs,
    )


def to_released(released: ReleasedJob) -> pb.ReleasedJob:
    """Return the message that hands a job back."""
    message = pb.ReleasedJob(
        job_id=released.ref.job_id, attempt=released.ref.attempt, reason=released.reason
    )
    if released.progress is not None:
        message.progress.token_ids.extend(released.progress.token_ids)
        message.progress.text = released.progress.text
        message.progress.rows.extend(map(_to_row, released.progress.rows))
    if released.needs is not None:
        message.needs.min_memory_mb = released.needs.min_memory_mb
        message.needs.min_gpu_memory_mb = released.needs.min_gpu_memory_mb
    return message
