"""A job, from submission to result."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..errors import ErrorCode
from .sampling import SamplingParameters

METRICS = "metrics"
"""The one parameter that is no sampling parameter: what an evaluation measures."""


_KINDS_OF_INPUT = ("prompt", "messages", "inputs", "prompt_token_ids")


class JobStatus(StrEnum):
    """A job's states; docs/lifecycle.md draws them."""

    PENDING = "pending"
    ACQUIRED = "acquired"
    LOADING_MODEL = "loading_model"
    EXECUTING = "executing"
    STREAMING = "streaming"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


class JobType(StrEnum):
    """What kind of work a job is."""

    INFERENCE = "inference"
    BATCH_INFERENCE = "batch_inference"
    TRAINING = "training"
    FINE_TUNING = "fine_tuning"
    EVALUATION = "evaluation"


class JobPriority(IntEnum):
    """Names for the priorities; any whole number from 1 to 10 is one, the highest goes first."""

    LOW = 1
    BELOW_NORMAL = 3
    NORMAL = 5
    ABOVE_NORMAL = 7
    HIGH = 8
    CRITICAL = 10


class ModelConfig(BaseModel):
    """Which model runs a job, and how it is loaded."""

    family: str = Field(min_length=1)
    version: str = Field(min_length=1)
    runtime: str
    runtime_config: dict[str, Any] = Field(default_factory=dict)


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: list[dict[str, Any]] | None = None
    """What an assistant called, as OpenAI's API lists it; arguments are JSON in a text."""
    tool_call_id: str | None = None
    """Whose result a tool's message is."""
    name: str | None = None
    """The tool's."""


class JobInput(BaseModel):
    """What a model is asked: a prompt (a text or tokens), a conversation, or rows of them.

    `parameters` are checked as `SamplingParameters` on construction and kept as they were given.
    Beside `inputs` they may name the `metrics` of an evaluation, which are checked when it runs.
    """

    prompt: str | None = Field(default=None, min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)
    context: str | None = None
    messages: list[ChatMessage] | None = Field(default=None, min_length=1)
    inputs: list[Any] | None = Field(default=None, min_length=1)
    prompt_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    """A prompt as the model's own tokens; it is read as it stands."""

    @field_validator("parameters")
    @classmethod
    def _parameters_are_valid(cls, value: dict[str, Any]) -> dict[str, Any]:
        _sampling(value)
        return value

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> Self:
        given = [name for name in _KINDS_OF_INPUT if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of prompt, messages or inputs"
                + (f", not {' and '.join(given)}" if given else "")
            )
        if METRICS in self.parameters and self.inputs is None:
            raise ValueError("parameters.metrics goes with inputs, the rows of an evaluation")
        return self

    @property
    def sampling(self) -> SamplingParameters:
        """The parameters with their defaults filled in."""
        return _sampling(self.parameters)


_DEFAULTS = SamplingParameters()


def _sampling(parameters: dict[str, Any]) -> SamplingParameters:
    if not parameters:
        return _DEFAULTS
    return SamplingParameters.model_validate(
        {name: value for name, value in parameters.items() if name != METRICS}
    )


class ResultReference(BaseModel):
    """Where an answer lies that is too large for a message: JSON in ENGRAM, at bucket/key."""

    engram: str
    size_bytes: int = Field(ge=0)
    sha256: str


class JobOutput(BaseModel):
    """What a model answered."""

    result: Any
    result_reference: ResultReference | None = None
    """Where it lies instead; `result` is None then."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """model, tokens_generated, prompt_tokens, finish_reason (stop | length), …"""
    metrics: dict[str, Any] = Field(default_factory=dict)
    """latency_ms, first_token_latency_ms, tokens_per_second, …"""


class RetryConfig(BaseModel):
    """How often and how soon a failed job is tried again."""

    max_retries: int = Field(default=3, ge=0, le=100)
    initial_backoff_seconds: float = Field(default=1.0, ge=0)
    max_backoff_seconds: float = Field(default=300.0, ge=0)
    retryable_codes: list[ErrorCode] = Field(default_factory=list)


class Requirements(BaseModel):
    """What a worker must have to be given the job."""

    min_memory_mb: int = Field(default=0, ge=0)
    min_gpu_memory_mb: int = Field(default=0, ge=0)
    tags: dict[str, str] = Field(default_factory=dict)


class JobSpec(BaseModel):
    """A job as a worker receives it."""

    model_config = ConfigDict(protected_namespaces=())

    job_id: str
    job_type: JobType = JobType.INFERENCE
    priority: int = Field(default=JobPriority.NORMAL, ge=1, le=10)
    model: ModelConfig
    input: JobInput
    timeout_seconds: int = Field(default=300, ge=1, le=3600)
    retry_config: RetryConfig | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    submitted_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    requirements: Requirements = Field(default_factory=Requirements)
    idempotency_key: str | None = None
    trace: str | None = None


class ErrorDetails(BaseModel):
    """Why a job failed, for machines."""

    model_config = ConfigDict(extra="allow")

    code: ErrorCode = ErrorCode.INTERNAL
    retryable: bool = False
    attempts: int = Field(default=1, ge=0)
    engine_jobs: int = Field(default=0, ge=0)
    """How many jobs a dead engine ran, this one included; 0 where no engine died."""


class JobResult(BaseModel):
    """How one attempt at a job ended."""

    job_id: str
    attempt: int = Field(default=1, ge=0)
    status: JobStatus
    output: JobOutput | None = None
    error: str | None = None
    error_details: ErrorDetails | None = None
    worker_id: str
    started_at: datetime
    completed_at: datetime | None = None
    duration_seconds: float | None = Field(default=None, ge=0)


class RowResult(BaseModel):
    """One finished row of a batch or an evaluation."""

    index: int = Field(ge=0)
    result: dict[str, Any]


class StreamChunk(BaseModel):
    """Some tokens of a streamed answer, or one finished row."""

    job_id: str
    attempt: int = Field(default=1, ge=0)
    sequence: int = Field(ge=0)
    content: str
    is_final: bool = False
    metadata: dict[str, Any] = Field(default_factory=dict)
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))
    token_ids: list[int] = Field(default_factory=list)
    row: RowResult | None = None


class ResumeState(BaseModel):
    """What earlier attempts had brought when they ended."""

    token_ids: list[int] = Field(default_factory=list)
    text: str = ""
    rows: list[RowResult] = Field(default_factory=list)


class LeasedJob(BaseModel):
    """A job in this worker's hands, until its lease runs out."""

    job: JobSpec
    attempt: int = Field(ge=1)
    """The fencing token: every call about the job names it."""
    lease_seconds: float = Field(gt=0)
    time_left_seconds: float = Field(gt=0)
    resume: ResumeState | None = None
    engine_crashes: int = Field(default=0, ge=0)
    """Engines that died under this job so far; from two on it runs alone in its engine."""
    confirmed_at: float | None = None
    """When its first renewal was asked for (monotonic), if that has succeeded already."""
