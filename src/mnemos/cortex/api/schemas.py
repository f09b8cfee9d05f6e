"""What the HTTP API takes."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic import field_validator as check

from mnemos.json_schema import check_json_schema

from .depth import check_depth

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            "must be 1 to 128 letters, digits, dots, dashes and underscores, "
            "a letter or digit first, and no '..'"
        )
    return name


def _check_guide(schema: dict[str, Any]) -> dict[str, Any]:
    check_depth(schema)
    return check_json_schema(schema)


def _check_is_written(value: object) -> object:
    """Pydantic takes a number for a moment too; nobody is told that it does."""
    if isinstance(value, str) and value[4:5] == "-":
        return value
    raise ValueError("must be a date and time as in 2026-01-31T12:00:00Z")


Name = Annotated[str, AfterValidator(_check_name)]
Moment = Annotated[datetime, BeforeValidator(_check_is_written)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f]+$")]
Key = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]+$")]
Runtime = Literal["vllm", "pytorch", "transformers", "echo"]
JobType = Literal["inference", "batch_inference", "training", "fine_tuning", "evaluation"]
Code = Literal[
    "invalid_input",
    "model_not_found",
    "artifact_corrupt",
    "runtime_unavailable",
    "insufficient_resources",
    "out_of_memory",
    "engine_crashed",
    "worker_lost",
    "timeout",
    "cancelled",
    "storage_unavailable",
    "internal",
]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
TokenText = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
Megabytes = Annotated[int, Field(ge=0, le=2**40)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    """Strict: "5" and true are no numbers, whatever they could be read as."""


class Sampling(_Strict):
    """How tokens are drawn, and when drawing ends."""

    min_tokens: int = Field(default=0, ge=0, le=2**31)
    temperature: float = Field(default=0.7, ge=0, le=2)
    top_p: float = Field(default=0.9, gt=0, le=1)
    top_k: int = Field(default=-1, ge=-1, le=2**31)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    stop: list[StopString] | None = Field(default=None, max_length=16)
    stop_token_ids: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        default_factory=list, max_length=256
    )
    ignore_eos: bool = False
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stream: bool = False
    raw: bool = False
    """Send the prompt as it stands, past the model's chat template."""
    n: int = Field(default=1, ge=1, le=16)
    """How many answers to draw; with more than one the result is their list."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Tell every token's log-probability, and those of as many alternatives."""
    prompt_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Tell the same of every token of the prompt; the first one has none."""
    max_tokens: int = Field(default=512, ge=0, le=2**31)
    """0 goes with prompt_logprobs: the prompt is read, and nothing is drawn."""
    logit_bias: dict[TokenText, Bias] = Field(default_factory=dict, max_length=1024)
    """What is added to tokens' logits, by their numbers."""
    tools: list[dict[str, Any]] | None = Field(default=None, min_length=1, max_length=128)
    """What the model may call, in OpenAI's form: its chat template tells it of them."""
    json_schema: Annotated[dict[str, Any], AfterValidator(_check_guide)] | None = None
    """The answer is JSON that this schema allows."""
    regex: str | None = Field(default=None, min_length=1, max_length=10_000)
    """The answer matches this expression, whole."""
    choice: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, min_length=1, max_length=1000
    )
    """The answer is one of these."""
    adapter: str | None = Field(default=None, pattern=r"^[^:]+:[^:]+$", max_length=260)
    """A LoRA adapter, family:version in GENOME, that the model runs with."""
    target: str | None = Field(default=None, min_length=1)
    """An answer that is not drawn but given: it is scored, token by token."""

    @check("stop", mode="before")
    @classmethod
    def _one_stop_string_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @check("max_tokens")
    @classmethod
    def _draws_or_reads(cls, value: int, info: ValidationInfo) -> int:
        if value == 0 and (info.data.get("prompt_logprobs") is None or info.data.get("n") != 1):
            raise ValueError("0 goes with prompt_logprobs and with n = 1")
        return value

    @model_validator(mode="after")
    def _parameters_agree(self) -> Self:
        guides = ("json_schema", "regex", "choice")
        given = [name for name in guides if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        if self.n > 1 and self.stream:
            raise ValueError("stream goes with n = 1: send one job for each answer")
        if self.target is not None and (self.n > 1 or given):
            raise ValueError(f"target is scored as it stands: leave {(given or ['n'])[0]} out")
        if self.target is not None and self.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs goes without a target")
        return self


class _Grown(_Strict):
    """Fields that came later are no part of what says nothing of them: a request from before
    is the same request still, whatever it is compared with.
    """

    _later: ClassVar[frozenset[str]]

    @model_serializer(mode="wrap")
    def _told(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = dump(self)
        for name in self._later:
            if told.get(name, False) is None:
                del told[name]
        return told


class CalledFunction(_Strict):
    """Which tool was called, with what: JSON in a text."""

    name: str = Field(min_length=1, max_length=128)
    arguments: str


class ToolCall(_Strict):
    """A call that an assistant made."""

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(_Grown):
    """One turn of a conversation."""

    _later = frozenset({"tool_calls", "tool_call_id", "name"})

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: list[ToolCall] | None = Field(default=None, max_length=128)
    tool_call_id: str | None = Field(default=None, max_length=256)
    """Whose result a tool's message is."""
    name: str | None = Field(default=None, max_length=128)
    """The tool's."""


class TextRow(_Strict):
    """One row of a batch: as much of a job's input as may differ from row to row."""

    prompt: str | None = Field(default=None, min_length=1)
    messages: list[Message] | None = Field(default=None, min_length=1)
    parameters: dict[str, Any] | None = None
    context: str | None = None
    id: str | int | None = None

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        return self


class EvaluationRow(TextRow):
    """One row of an evaluation: a question, and the answer or answers that are right."""

    reference: str | Annotated[list[str], Field(min_length=1)]


class Metrics(_Strict):
    """What an evaluation measures; all of exact_match and f1 unless it says so."""

    metrics: list[Literal["exact_match", "f1", "perplexity"]] | None = Field(
        default=None, min_length=1
    )


class ModelChoice(_Strict):
    """Which model runs a job; version and runtime are looked up where they are left out."""

    family: Name
    version: Name | None = None
    runtime: Runtime | None = None
    runtime_config: dict[str, Any] = Field(default_factory=dict)


class Input(_Grown):
    """What a model is asked: exactly one of a prompt, a conversation, or rows of a batch."""

    _later = frozenset({"prompt_token_ids"})

    prompt: str | None = Field(default=None, min_length=1)
    messages: list[Message] | None = Field(default=None, min_length=1)
    inputs: list[Any] | None = Field(default=None, min_length=1)
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="max_tokens, temperature, stop, stream, …"
    )
    context: str | None = None
    prompt_token_ids: list[Annotated[int, Field(ge=0, lt=2**32)]] | None = Field(
        default=None, min_length=1, description="A prompt as the model's own tokens."
    )

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> Self:
        named = {
            "prompt": self.prompt,
            "messages": self.messages,
            "inputs": self.inputs,
            "prompt_token_ids": self.prompt_token_ids,
        }
        given = [name for name, value in named.items() if value is not None]
        if len(given) != 1:
            but = f", not {' and '.join(given)}" if given else ""
            raise ValueError(f"give exactly one of prompt, messages or inputs{but}")
        return self


class Retry(_Strict):
    """How often and how soon a failed attempt is followed by another."""

    max_retries: int = Field(default=3, ge=0, le=100)
    initial_backoff_seconds: Seconds = 1.0
    max_backoff_seconds: Seconds = 300.0
    retryable_codes: list[Code] = Field(default_factory=list)


class Requirements(_Strict):
    """What a worker must have to be given the job."""

    min_memory_mb: Megabytes = 0
    min_gpu_memory_mb: Megabytes = 0
    tags: dict[Label, Label] = Field(default_factory=dict, max_length=32)


class JobSubmit(_Strict):
    """A job to run."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": {"family": "smollm2"},
                    "input": {
                        "messages": [{"role": "user", "content": "What is the capital of France?"}],
                        "parameters": {"max_tokens": 40, "temperature": 0},
                    },
                }
            ]
        },
    )

    model: ModelChoice
    input: Input
    job_type: JobType = "inference"
    priority: int = Field(default=5, ge=1, le=10, description="The highest goes first.")
    timeout_seconds: int = Field(default=300, ge=1, le=3600)
    retry_config: Retry | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    requirements: Requirements = Field(default_factory=Requirements)
    group: Label | None = None
    idempotency_key: Key | None = None
    trace: Annotated[str, StringConstraints(max_length=256, pattern=r"^[ -~]*$")] | None = None
