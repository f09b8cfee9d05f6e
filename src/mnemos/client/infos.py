"""What CORTEX says of a job, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, cast

from .errors import JobCancelledError, JobError, JobFailedError, JobTimedOutError, MnemosError

Status = Literal[
    "pending",
    "acquired",
    "loading_model",
    "executing",
    "streaming",
    "completed",
    "failed",
    "cancelled",
    "timeout",
]
Item = TypeVar("Item")

ENDED = frozenset({"completed", "failed", "cancelled", "timeout"})
_ERRORS: dict[str, type[JobError]] = {"cancelled": JobCancelledError, "timeout": JobTimedOutError}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job ended without an answer."""

    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens; None where the worker did not count them."""

    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job at one moment. `raw` is all that CORTEX said.

    `result` is a text, or for a job of many rows or answers their list; None before the end. A job
    that was cancelled or timed out has what it had got to, where its worker told.
    """

    id: str
    status: Status
    model: str
    result: Any
    error: Failure | None
    usage: Usage
    finish_reason: str | None
    attempt: int
    group: str | None
    metadata: Mapping[str, Any]
    submitted_at: str
    finished_at: str | None
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in ENDED

    @property
    def completed(self) -> bool:
        """Whether the answer is there."""
        return self.status == "completed"

    @property
    def waiting_for(self) -> str | None:
        """Why no worker has it yet, in one sentence, where CORTEX was asked for this job alone."""
        reason = self.raw.get("waiting_reason")
        return str(reason) if reason else None

    @property
    def is_stored_apart(self) -> bool:
        """Whether `result` only says where a very big answer lies."""
        return isinstance(self.result, dict) and self.result.keys() == {"result_reference"}

    def failure(self) -> JobError | None:
        """The error to raise for a job that has ended without an answer."""
        if not self.ended or self.completed:
            return None
        return _ERRORS.get(self.status, JobFailedError)(self)


def job_info(view: Mapping[str, Any]) -> JobInfo:
    """Read a job as the API shows it."""
    told = view.get("output_metadata") or {}
    error = view.get("error")
    model = view["model"]
    return JobInfo(
        id=view["job_id"],
        status=cast("Status", view["status"]),
        model=f"{model['family']}:{model['version']}",
        result=view.get("result"),
        error=error and Failure(error["code"], error["message"], bool(error.get("retryable"))),
        usage=Usage(told.get("prompt_tokens"), told.get("tokens_generated")),
        finish_reason=told.get("finish_reason"),
        attempt=view.get("attempt", 0),
        group=view.get("group"),
        metadata=view.get("metadata") or {},
        submitted_at=view["submitted_at"],
        finished_at=view.get("finished_at"),
        raw=view,
    )


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of an answer, as its worker sent it: a token or a few.

    `sequence` is its place in the job's log: a stream can be taken up behind it.
    """

    text: str
    token_ids: tuple[int, ...]
    attempt: int
    sequence: int

    def __str__(self) -> str:
        """The text."""
        return self.text


@dataclass(frozen=True, slots=True)
class Answer(Generic[Item]):
    """What became of one item of a `map`: an answer, or the error that stands in its place.

    `index` counts the items from 0; `id` is the item's own, or the index as a text. `job` is None
    for an item that was refused before it became one.
    """

    index: int
    id: str
    item: Item
    job: JobInfo | None
    error: MnemosError | None

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.error is None

    @property
    def value(self) -> Any:
        """The answer (a text, mostly); raises `error` where there is none."""
        if self.error is not None:
            raise self.error
        assert self.job is not None
        return self.job.result


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a `map` is. `total` is None where nobody said how many items there are."""

    done: int
    failed: int
    in_flight: int
    total: int | None
    completion_tokens: int
    seconds: float
