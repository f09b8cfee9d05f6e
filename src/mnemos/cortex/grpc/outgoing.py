"""Records, as messages to workers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mnemos.protocol.v1 import cortex_pb2 as pb

from ..records import ActionRecord, ChunkAck, JobRecord, LeasedJob, ModelKey, RefVerdict
from .words import VERDICT_BY_FENCE, action_kind_number, error_code_number, job_type_number


@lru_cache(maxsize=256)
def duration(seconds: float) -> Duration:
    """A length of time, for messages to copy: jobs that were claimed together have the same."""
    whole, nanos = divmod(round(max(0.0, seconds) * 1e9), 1_000_000_000)
    return Duration(seconds=whole, nanos=nanos)


def timestamp(seconds: float) -> Timestamp:
    """An instant, for people to read."""
    whole, micros = divmod(round(seconds * 1e6), 1_000_000)
    return Timestamp(seconds=whole, nanos=micros * 1000)


def leased_job(leased: LeasedJob) -> pb.LeasedJob:
    """A job for the worker that holds it."""
    message = pb.LeasedJob(
        job=_spec(leased.job),
        attempt=leased.job.attempt,
        lease=duration(leased.lease_seconds),
        time_left=duration(leased.time_left_seconds),
        engine_crashes=leased.job.engine_crashes,
    )
    if leased.rows:
        rows = [pb.RowResult(index=row.index, result_json=row.result) for row in leased.rows]
        message.resume.rows.extend(rows)
    if leased.progress is not None:
        message.resume.token_ids.extend(leased.progress.token_ids)
        message.resume.text = leased.progress.text
    return message


def _spec(job: JobRecord) -> pb.JobSpec:
    return pb.JobSpec(
        job_id=job.job_id,
        job_type=job_type_number(job.job_type),
        priority=job.priority,
        model=pb.ModelRef(
            family=job.family,
            version=job.version,
            runtime=job.runtime,
            runtime_config_json=job.runtime_config,
        ),
        input=_input(job.input or "{}"),
        timeout_seconds=job.timeout_seconds,
        retry_config=_retry_config(job.retry_config),
        metadata_json=job.metadata,
        submitted_at=timestamp(job.submitted_at),
        requirements=_requirements(job.min_memory_mb, job.min_gpu_memory_mb, job.tags),
        idempotency_key=job.idempotency_key or "",
        trace=job.trace or "",
    )


_NULL = msgspec.Raw(b"null")


class _Turn(msgspec.Struct):
    role: str
    content: str
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _Input(msgspec.Struct):
    """What a worker is told of a job's input; what it reads by itself stays as it was stored."""

    prompt: str | None = None
    parameters: msgspec.Raw = _NULL
    context: str | None = None
    messages: list[_Turn] | None = None
    inputs: list[msgspec.Raw] | None = None
    prompt_token_ids: list[int] | None = None


_read_input = msgspec.json.Decoder(_Input).decode


def _input(text: str) -> pb.JobInput:
    told = _read_input(text)
    parameters = _text(told.parameters)
    message = pb.JobInput(
        prompt=told.prompt or "",
        parameters_json="{}" if parameters == "null" else parameters,
        context=told.context or "",
    )
    if told.messages:
        message.messages.extend(map(_turn, told.messages))
    if told.inputs:
        message.inputs_json.extend(_text(row) for row in told.inputs)
    if told.prompt_token_ids:
        message.prompt_token_ids.extend(told.prompt_token_ids)
    return message


def _text(raw: msgspec.Raw) -> str:
    return bytes(raw).decode()


def _turn(turn: _Turn) -> pb.ChatMessage:
    return pb.ChatMessage(
        role=turn.role,
        content=turn.content,
        tool_calls_json=json.dumps(turn.tool_calls) if turn.tool_calls else "",
        tool_call_id=turn.tool_call_id or "",
        name=turn.name or "",
    )


@lru_cache(maxsize=256)
def _requirements(memory_mb: int, gpu_memory_mb: int, tags: str) -> pb.Requirements:
    """Nearly all jobs have the same; messages copy what they are given."""
    return pb.Requirements(
        min_memory_mb=memory_mb,
        min_gpu_memory_mb=gpu_memory_mb,
        tags=msgspec.json.decode(tags),
    )


@lru_cache(maxsize=256)
def _retry_config(text: str) -> pb.RetryConfig:
    """Read a policy; nearly all jobs have the same, and messages copy what they are given."""
    told: dict[str, Any] = json.loads(text)
    return pb.RetryConfig(
        max_retries=told["max_retries"],
        initial_backoff=duration(told["initial_backoff_seconds"]),
        max_backoff=duration(told["max_backoff_seconds"]),
        retryable_codes=[error_code_number(code) for code in told["retryable_codes"]],
    )


def verdicts(records: Sequence[RefVerdict]) -> list[pb.LeaseVerdict]:
    """What became of a call about some attempts."""
    return [
        pb.LeaseVerdict(
            job_id=record.job_id,
            attempt=record.attempt,
            verdict=VERDICT_BY_FENCE[record.verdict],
        )
        for record in records
    ]


def acks(records: Sequence[ChunkAck]) -> list[pb.StreamAck]:
    """How far tokens are durable."""
    return [
        pb.StreamAck(
            job_id=record.job_id,
            attempt=record.attempt,
            next_sequence=record.next_sequence,
            verdict=VERDICT_BY_FENCE[record.verdict],
        )
        for record in records
    ]


def action(record: ActionRecord) -> pb.Action:
    """Something asked of a worker."""
    message = pb.Action(
        action_id=record.action_id,
        kind=action_kind_number(record.kind),
        reason=record.reason,
        jobs=[pb.AttemptRef(job_id=ref.job_id, attempt=ref.attempt) for ref in record.jobs],
        config_json=record.config,
    )
    if record.deadline_seconds is not None:
        message.deadline.CopyFrom(duration(record.deadline_seconds))
    return message


def model_hint(model: ModelKey) -> pb.ModelHint:
    """A model that is worth fetching before jobs come."""
    return pb.ModelHint(family=model.family, version=model.version, runtime=model.runtime)
