"""From a question to a request of the client's, and from its answer to an answer line."""

from __future__ import annotations

from typing import Any

from mnemos.client import Answer, ApiError, JobInfo, JobRequest, MnemosError, Options, Retry

from .lines import BadLine, Question
from .record import RunSettings


def model_name(settings: RunSettings) -> str:
    """The model as the client takes it."""
    return f"{settings.family}:{settings.version}" if settings.version else settings.family


def options_of(settings: RunSettings) -> Options:
    """What all questions of a run share; what was not said is left to CORTEX."""
    options: Options = {
        "parameters": settings.parameters,
        "priority": settings.priority,
        "timeout_seconds": settings.timeout_seconds,
        "retry": Retry(max_retries=settings.max_retries),
    }
    if settings.runtime:
        options["runtime"] = settings.runtime  # type: ignore[typeddict-item]  # one of click's choices
    if settings.system is not None:
        options["system"] = settings.system
    return options


def request_of(question: Question) -> JobRequest:
    """What is asked; the same for the same line, whenever it is made."""
    metadata = {"line_id": question.id, "line": question.number}
    return JobRequest(id=question.id, metadata=metadata, **question.input)


def line_number_of(answer: Answer[JobRequest]) -> int:
    """Which line of the file was asked."""
    return int(answer.item.metadata["line"])


def answer_line(answer: Answer[JobRequest]) -> dict[str, Any]:
    """The line that goes into the answers."""
    if answer.job is not None:
        return _line_of_job(answer.id, answer.job)
    assert answer.error is not None
    return refused(answer.id, _told(answer.error))


def _line_of_job(line_id: str, job: JobInfo) -> dict[str, Any]:
    line: dict[str, Any] = {
        "id": line_id,
        "status": job.status,
        "result": job.result,
        "finish_reason": job.finish_reason,
        "usage": {
            "prompt_tokens": job.usage.prompt_tokens,
            "completion_tokens": job.usage.completion_tokens,
        },
    }
    if job.error:
        line["error"] = job.raw["error"]
    line["job_id"] = job.id
    line["model"] = job.model
    line["latency_ms"] = (job.raw.get("metrics") or {}).get("latency_ms")
    return line


def answer_of_bad_line(line: BadLine) -> dict[str, Any]:
    """The answer line of a line that could not be asked."""
    message = f"line {line.number}: {line.message}"
    return refused(line.id, {"code": "invalid_input", "message": message})


def refused(line_id: str, error: dict[str, Any]) -> dict[str, Any]:
    """The answer line of a question that CORTEX did not take."""
    return {"id": line_id, "status": "failed", "result": None, "error": error}


def _told(error: MnemosError) -> dict[str, Any]:
    told: dict[str, Any] = {"code": error.code, "message": error.message}
    if isinstance(error, ApiError) and error.field:
        told["field"] = error.field
    return told


def tokens_of(line: dict[str, Any]) -> int:
    """How many tokens an answer cost to generate."""
    return int((line.get("usage") or {}).get("completion_tokens") or 0)
