"""From what a caller asks to a job as the API takes it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypedDict

from .errors import InvalidInputError

MAX_KEY_CHARACTERS = 256

Message = Mapping[str, Any]
"""One turn: `{"role": "user", "content": "…"}`."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often and how soon CORTEX lets a failed attempt be followed by another."""

    max_retries: int = 3
    initial_backoff_seconds: float = 1.0
    max_backoff_seconds: float = 300.0
    retryable_codes: Sequence[str] = ()


class Sampling(TypedDict, total=False):
    """How tokens are drawn, and when drawing ends; what is left out is the platform's choice."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    seed: int
    raw: bool
    n: int
    logprobs: int
    json_schema: Mapping[str, Any]
    regex: str
    choice: Sequence[str]
    adapter: str
    target: str


class Options(Sampling, total=False):
    """Everything about a job besides its question and its model.

    `parameters` are joined by the sampling words that stand beside them. `system` is the system
    message. `priority` is 1 to 10, the highest first; `timeout_seconds` covers loading the model.
    """

    system: str
    parameters: Mapping[str, Any]
    runtime: Literal["vllm", "pytorch", "transformers", "echo"]
    runtime_config: Mapping[str, Any]
    job_type: Literal["inference", "batch_inference", "training", "fine_tuning", "evaluation"]
    priority: int
    timeout_seconds: int
    retry: Retry
    requirements: Mapping[str, Any]
    metadata: Mapping[str, Any]
    trace: str


_SAMPLING = frozenset(Sampling.__annotations__)
_PLAIN = ("job_type", "priority", "timeout_seconds", "requirements", "metadata", "trace")


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """One question: exactly one of a prompt, a conversation, or the rows of a job of many.

    What it says itself goes before what the call says for all. `id` names an item of a `map`.
    """

    prompt: str | None = None
    messages: Sequence[Message] | None = None
    inputs: Sequence[Any] | None = None
    id: str | None = None
    context: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


Question = str | Sequence[Message] | Mapping[str, Any] | JobRequest
"""A prompt, a conversation, an object as `mnemos run` reads it from a line, or a JobRequest."""

_WORDS = frozenset(each.name for each in fields(JobRequest))


def as_request(question: object) -> JobRequest:
    """Read a question. Raises InvalidInputError."""
    if isinstance(question, JobRequest):
        return question
    if isinstance(question, str):
        return JobRequest(prompt=question)
    if isinstance(question, Mapping):
        unknown = sorted(str(name) for name in question.keys() - _WORDS)
        if unknown:
            raise InvalidInputError(
                f"{unknown[0]}: is not a word of a question ({', '.join(sorted(_WORDS))}).",
                field=unknown[0],
            )
        return JobRequest(**question)
    if isinstance(question, Sequence):
        return JobRequest(messages=question)
    raise InvalidInputError(f"A question is a text or messages, not {type(question).__name__}.")


def job_body(request: JobRequest, model: str, options: Options) -> dict[str, Any]:
    """The job as the API takes it; what was not said is left to CORTEX."""
    family, _, version = model.partition(":")
    choice: dict[str, Any] = {"family": family}
    if version:
        choice["version"] = version
    for name in ("runtime", "runtime_config"):
        if options.get(name) is not None:
            choice[name] = options[name]
    body: dict[str, Any] = {"model": choice, "input": _input(request, options)}
    body.update({name: options[name] for name in _PLAIN if options.get(name) is not None})  # type: ignore[literal-required]  # its own names
    if retry := options.get("retry"):
        body["retry_config"] = asdict(retry) | {"retryable_codes": list(retry.retryable_codes)}
    if request.metadata:
        body["metadata"] = {**body.get("metadata", {}), **request.metadata}
    return body


def _input(request: JobRequest, options: Options) -> dict[str, Any]:
    asked = {"prompt": request.prompt, "messages": request.messages, "inputs": request.inputs}
    said: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    beside = {name: value for name, value in options.items() if name in _SAMPLING}
    said["parameters"] = {**options.get("parameters", {}), **beside, **request.parameters}
    if request.context is not None:
        said["context"] = request.context
    system = options.get("system")
    if system is None:
        return said
    if request.messages is None:
        said.setdefault("context", system)
    elif not any(_role(message) == "system" for message in request.messages):
        said["messages"] = [{"role": "system", "content": system}, *request.messages]
    return said


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, Mapping) else None


def idempotency_key(run_id: str, item_id: str) -> str:
    """A key that only this item of this run has, never longer than CORTEX takes."""
    key = f"{run_id}:{item_id}"
    if len(key) <= MAX_KEY_CHARACTERS and item_id.isprintable():
        return key
    return f"{run_id}:sha256:{hashlib.sha256(item_id.encode('utf-8', 'replace')).hexdigest()}"
