"""From a question to a job's body, and from a finished job to an answer line."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from .lines import BadLine, Question
from .record import RunSettings

MAX_KEY_CHARS = 256


def job_body(question: Question, settings: RunSettings, run_id: str) -> dict[str, Any]:
    """What is submitted for a question; the same for the same run and line, whenever it is made."""
    return {
        "model": model_body(settings),
        "input": _input(question, settings),
        "priority": settings.priority,
        "timeout_seconds": settings.timeout_seconds,
        "retry_config": {"max_retries": settings.max_retries},
        "group": run_id,
        "idempotency_key": idempotency_key(run_id, question.id),
        "metadata": {"line_id": question.id, "line": question.number},
    }


def model_body(settings: RunSettings) -> dict[str, Any]:
    """The model as the API takes it; what was not said is left to CORTEX."""
    model: dict[str, Any] = {"family": settings.family}
    if settings.version:
        model["version"] = settings.version
    if settings.runtime:
        model["runtime"] = settings.runtime
    return model


def _input(question: Question, settings: RunSettings) -> dict[str, Any]:
    body = dict(question.input)
    body["parameters"] = {**settings.parameters, **body["parameters"]}
    if settings.system is None:
        return body
    if "messages" not in body:
        body.setdefault("context", settings.system)
    elif not any(_role(message) == "system" for message in body["messages"]):
        body["messages"] = [{"role": "system", "content": settings.system}, *body["messages"]]
    return body


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


def idempotency_key(run_id: str, line_id: str) -> str:
    """A key that only this line of this run has, never longer than CORTEX takes."""
    key = f"{run_id}:{line_id}"
    if len(key) <= MAX_KEY_CHARS and line_id.isprintable():
        return key
    return f"{run_id}:sha256:{hashlib.sha256(line_id.encode('utf-8', 'replace')).hexdigest()}"


def line_id_of(job: dict[str, Any]) -> str | None:
    """Which line a job answers; None for a job that no run has made."""
    line_id = (job.get("metadata") or {}).get("line_id")
    return line_id if isinstance(line_id, str) else None


def line_number_in(body: bytes) -> int:
    """Which line of the file an encoded `job_body` asks."""
    number: int = msgspec.json.decode(body)["metadata"]["line"]
    return number


def answer_of_job(line_id: str, job: dict[str, Any]) -> dict[str, Any]:
    """The answer line of a finished job."""
    told = job.get("output_metadata") or {}
    model = job["model"]
    answer: dict[str, Any] = {
        "id": line_id,
        "status": job["status"],
        "result": job.get("result"),
        "finish_reason": told.get("finish_reason"),
        "usage": {
            "prompt_tokens": told.get("prompt_tokens"),
            "completion_tokens": told.get("tokens_generated"),
        },
    }
    if job.get("error"):
        answer["error"] = job["error"]
    answer["job_id"] = job["job_id"]
    answer["model"] = f"{model['family']}:{model['version']}"
    answer["latency_ms"] = (job.get("metrics") or {}).get("latency_ms")
    return answer


def answer_of_bad_line(line: BadLine) -> dict[str, Any]:
    """The answer line of a line that could not be asked."""
    message = f"line {line.number}: {line.message}"
    return refused(line.id, {"code": "invalid_input", "message": message})


def refused(line_id: str, error: dict[str, Any]) -> dict[str, Any]:
    """The answer line of a question that CORTEX did not take."""
    return {"id": line_id, "status": "failed", "result": None, "error": error}


def tokens_of(answer: dict[str, Any]) -> int:
    """How many tokens an answer cost to generate."""
    return int((answer.get("usage") or {}).get("completion_tokens") or 0)
