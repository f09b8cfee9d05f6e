"""From a request's body to a job that can be stored: looked up, checked, measured."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import ValidationError

from mnemos.http import ApiError, describe_validation_errors, invalid_input, unavailable

from ..genome_lookup import (
    CatalogModel,
    CatalogUnavailableError,
    ModelCatalog,
    ModelUnknownError,
)
from ..ids import new_id
from ..records import NewJob
from .schemas import JobSubmit, ModelChoice, Retry, Sampling

MAX_DEPTH = 64
MAX_JOB_BYTES = 3 * 1024 * 1024
"""A job travels to its worker in one message of at most 4 MiB."""


def parse_job(body: Any) -> JobSubmit:
    """Check one job of a batch. Raises ApiError, as a request of its own would."""
    try:
        return JobSubmit.model_validate(body)
    except ValidationError as error:
        message, field = describe_validation_errors(error.errors(include_url=False))
        raise invalid_input(message, field) from error


async def prepare(job: JobSubmit, catalog: ModelCatalog | None, key: str | None) -> NewJob:
    """Look the model up, and write the job as it is stored. Raises ApiError."""
    _check_parameters(job)
    if key and job.idempotency_key and key != job.idempotency_key:
        raise invalid_input(
            "idempotency_key: differs from the Idempotency-Key header.", "idempotency_key"
        )
    texts = {
        "runtime_config": _shallow_text(job.model.runtime_config, "model.runtime_config"),
        "input": _shallow_text(job.input.model_dump(exclude_none=True), "input"),
        "metadata": _shallow_text(job.metadata, "metadata"),
    }
    if sum(len(text) for text in texts.values()) > MAX_JOB_BYTES:
        raise ApiError(
            413, "too_large", f"A job may have at most {MAX_JOB_BYTES >> 20} MiB.", "input"
        )
    request = _text(_request_fields(job), "the job", sort_keys=True)
    request_hash = hashlib.sha256(request.encode()).hexdigest()
    model = await _resolve(job.model, catalog)
    retry = job.retry_config or Retry()
    return NewJob(
        job_id=new_id("job"),
        job_type=job.job_type,
        priority=job.priority,
        family=model.family,
        version=model.version,
        runtime=model.runtime,
        timeout_seconds=job.timeout_seconds,
        retry_config=retry.model_dump_json(),
        request_hash=request_hash,
        min_memory_mb=job.requirements.min_memory_mb,
        min_gpu_memory_mb=job.requirements.min_gpu_memory_mb,
        tags=job.requirements.tags,
        group=job.group,
        idempotency_key=job.idempotency_key or key,
        trace=job.trace,
        **texts,
    )


def _request_fields(job: JobSubmit) -> dict[str, Any]:
    return job.model_dump(exclude={"idempotency_key", "trace"})


def _check_parameters(job: JobSubmit) -> None:
    try:
        Sampling.model_validate(job.input.parameters)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        for one in errors:
            one["loc"] = ("input", "parameters", *one["loc"])
        message, field = describe_validation_errors(errors)
        raise invalid_input(message, field) from error


def _shallow_text(value: Any, field: str) -> str:
    if _too_deep(value):
        raise invalid_input(f"{field}: is nested more than {MAX_DEPTH} levels deep.", field)
    return _text(value, field)


def _text(value: Any, field: str, *, sort_keys: bool = False) -> str:
    try:
        text = json.dumps(value, allow_nan=False, sort_keys=sort_keys, separators=(",", ":"))
    except ValueError as error:
        reason = f"{field}: holds a number that JSON does not have."
        raise invalid_input(reason, field) from error
    if "\\ud" in text:
        _check_surrogates(value, field)
    return text


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _check_surrogates(value: Any, field: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise invalid_input(f"{field}: holds text that is not Unicode.", field) from error


async def _resolve(model: ModelChoice, catalog: ModelCatalog | None) -> CatalogModel:
    given = None
    if model.version is not None and model.runtime is not None:
        given = CatalogModel(model.family, model.version, model.runtime)
    if catalog is None:
        if given is None:
            missing = "model.version" if model.version is None else "model.runtime"
            raise invalid_input(
                f"{missing}: must be given, because this CORTEX has no GENOME to ask.", missing
            )
        return given
    version = None if model.version == "latest" else model.version
    try:
        known = await catalog.find(model.family, version)
    except ModelUnknownError as error:
        raise ApiError(404, "model_not_found", error.message, "model") from error
    except CatalogUnavailableError as error:
        if given is not None and version is not None:
            return given
        raise unavailable(f"{error.message} Give model.version and model.runtime.") from error
    return CatalogModel(known.family, known.version, model.runtime or known.runtime)
