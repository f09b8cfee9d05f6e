"""From a request's body to a job that can be stored: looked up, checked, measured."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol

from pydantic import ValidationError

from mnemos.http import ApiError, describe_validation_errors, invalid_input

from ..genome_lookup import ModelCatalog
from ..ids import new_id
from ..input_schema.checker import InputChecker
from ..records import NewJob, WorkerRecord
from .depth import check_depth
from .input_check import InputCheck
from .models import name_adapters, resolve
from .rows import ROW_JOB_TYPES, adapters_of, check_parameters, check_rows, with_adapters
from .schemas import JobSubmit, Retry

RARE_JOB_TYPES = frozenset({"training", "fine_tuning"})
_USUAL_RETRY = Retry().model_dump_json()
MAX_JOB_BYTES = 3 * 1024 * 1024
"""A job travels to its worker in one message of at most 4 MiB."""


def parse_job(body: Any) -> JobSubmit:
    """Check one job of a batch. Raises ApiError, as a request of its own would."""
    try:
        return JobSubmit.model_validate(body)
    except ValidationError as error:
        message, field = describe_validation_errors(error.errors(include_url=False))
        raise invalid_input(message, field) from error


class WorkerList(Protocol):
    """Knows which workers there are."""

    async def list_workers(self) -> list[WorkerRecord]:
        """Return all workers, lost ones too."""


class Preparation:
    """What jobs are checked against when they are submitted.

    They become those of `key_id`, and so do the names that their submitter chose for them: two
    keys' same names are two. Names of a batch's lines are CORTEX's own, and stay as they are.
    """

    def __init__(
        self,
        catalog: ModelCatalog | None,
        workers: WorkerList,
        inputs: InputChecker,
        *,
        key_id: str = "",
        is_batch: bool = False,
    ) -> None:
        self._catalog = catalog
        self._workers = workers
        self._inputs = InputCheck(inputs)
        self._key_id = key_id
        self._is_batch = is_batch

    async def prepare(self, job: JobSubmit, key: str | None = None) -> NewJob:
        """Look the model up, and write the job as it is stored. Raises ApiError.

        What the model requires joins what the job does: it may ask for more, not for less.
        `key` is an idempotency key that came beside the job.
        """
        check_parameters(job)
        if key and job.idempotency_key and key != job.idempotency_key:
            raise invalid_input(
                "idempotency_key: differs from the Idempotency-Key header.", "idempotency_key"
            )
        texts = _texts(job)
        key = job.idempotency_key or key
        await self._check_offered(job.job_type)
        model = await resolve(job.model, self._catalog)
        check_rows(job, model.runtime)
        meant = await name_adapters(adapters_of(job), self._catalog)
        if meant:
            texts["input"] = _input_text(with_adapters(job, meant))
        await self._inputs.check(job, texts["input"], model)
        config = {**model.runtime_config, **job.model.runtime_config}
        retry_config = job.retry_config.model_dump_json() if job.retry_config else _USUAL_RETRY
        return NewJob(
            job_id=new_id("job"),
            job_type=job.job_type,
            priority=job.priority,
            family=model.family,
            version=model.version,
            runtime=model.runtime,
            runtime_config=_text(config, "model.runtime_config"),
            input=texts["input"],
            timeout_seconds=job.timeout_seconds,
            retry_config=retry_config,
            metadata=texts["metadata"],
            request_hash=_hash_of(job) if key else "",
            min_memory_mb=max(job.requirements.min_memory_mb, model.min_memory_mb),
            min_gpu_memory_mb=max(job.requirements.min_gpu_memory_mb, model.min_gpu_memory_mb),
            tags=job.requirements.tags,
            group=self._own(job.group),
            idempotency_key=self._own(key),
            trace=job.trace,
            row_count=len(job.input.inputs or ()) if job.job_type in ROW_JOB_TYPES else 0,
            key_id=self._key_id,
            is_batch=self._is_batch,
        )

    def _own(self, name: str | None) -> str | None:
        return f"{self._key_id}:{name}" if name and self._key_id and not self._is_batch else name

    async def _check_offered(self, job_type: str) -> None:
        """Refuse jobs of a type that most likely nobody will ever run."""
        if job_type not in RARE_JOB_TYPES:
            return
        for worker in await self._workers.list_workers():
            if not worker.lost and job_type in json.loads(worker.capabilities)["job_types"]:
                return
        raise invalid_input(
            f"job_type: no registered worker runs jobs of type {job_type}; "
            "start one that offers them first.",
            "job_type",
        )


def _texts(job: JobSubmit) -> dict[str, str]:
    texts = {
        "runtime_config": _shallow_text(job.model.runtime_config, "model.runtime_config"),
        "input": _input_text(job),
        "metadata": _shallow_text(job.metadata, "metadata"),
    }
    if sum(len(text) for text in texts.values()) > MAX_JOB_BYTES:
        raise ApiError(
            413, "too_large", f"A job may have at most {MAX_JOB_BYTES >> 20} MiB.", "input"
        )
    return texts


def _input_text(job: JobSubmit) -> str:
    return _shallow_text(job.input.model_dump(exclude_none=True), "input")


def _hash_of(job: JobSubmit) -> str:
    """What tells one request from another that comes with the same idempotency key."""
    fields = job.model_dump(exclude={"idempotency_key", "trace"})
    return hashlib.sha256(_text(fields, "the job", sort_keys=True).encode()).hexdigest()


def _shallow_text(value: Any, field: str) -> str:
    try:
        check_depth(value)
    except ValueError as error:
        raise invalid_input(f"{field}: {error}.", field) from error
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


def _check_surrogates(value: Any, field: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise invalid_input(f"{field}: holds text that is not Unicode.", field) from error
