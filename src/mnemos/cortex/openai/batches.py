"""`/v1/batches`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from mnemos.engram.errors import EngramError, ObjectNotFoundError
from mnemos.http import ApiError

from ..api.context import BatchParts, Cortex
from ..api.views import json_response
from ..batches.keeping import FileKeeper
from ..batches.records import OPEN, Batch, BatchState, StoredFile
from ..batches.retrying import failed_lines
from ..ids import new_id
from ..principal import principal_of
from ..webhooks.endpoints import EndpointName
from .documents import ERRORS
from .errors import refusal
from .expiry import MAX_BATCH_FILE_BYTES, ExpiresAfter
from .files import (
    BATCH_FILE_SECONDS,
    find_file,
    only_of,
    page,
    parts_of,
    sees,
    storage_error,
)
from .requests import Strict

router = APIRouter(tags=["batches"])

_TIMED = (
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
)

MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class BatchOptions(Strict):
    """What may be said of any batch; `webhooks` is a field of this server's own."""

    completion_window: str = Field(default="24h", pattern=r"^[1-9][0-9]{0,4}[smh]$")
    metadata: dict[MetadataKey, MetadataValue] | None = Field(default=None, max_length=16)
    output_expires_after: ExpiresAfter | None = None
    webhooks: list[EndpointName] = Field(default_factory=list, max_length=16)

    @property
    def window_seconds(self) -> float:
        """How long it may take; OpenAI has 24h alone."""
        return (
            int(self.completion_window[:-1])
            * {"s": 1, "m": 60, "h": 3600}[self.completion_window[-1]]
        )


class BatchRequest(BatchOptions):
    """`POST /v1/batches`; `retry_failed_of` is a field of this server's own."""

    input_file_id: str | None = Field(default=None, min_length=1, max_length=64)
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"] | None = None
    retry_failed_of: str | None = Field(default=None, min_length=1, max_length=64)


@router.post("/batches", summary="Run a file of requests", responses=ERRORS)
async def create(request: Request, body: BatchRequest, cortex: Cortex) -> Response:
    """Answers at once; the file is checked, run and answered in the background.

    With `retry_failed_of` it runs the lines of an ended batch that were not answered.
    """
    parts = parts_of(cortex)
    if body.retry_failed_of is not None:
        failed = await _find(request, parts, body.retry_failed_of)
        _check_same(body, failed)
        return await _retried(parts, failed, body)
    if body.input_file_id is None or body.endpoint is None:
        name = "input_file_id" if body.input_file_id is None else "endpoint"
        raise refusal(f"{name}: is missing.", name)
    file = await find_file(request, parts, body.input_file_id)
    if file is None:
        message = f"input_file_id: there is no file {body.input_file_id}."
        raise refusal(message, "input_file_id", "file_not_found")
    if file.purpose != "batch":
        raise refusal("input_file_id: the file's purpose is not batch.", "input_file_id")
    if file.size_bytes > MAX_BATCH_FILE_BYTES:
        raise refusal("input_file_id: a batch has at most 200 MiB.", "input_file_id")
    key_id = principal_of(request.scope).key_id
    batch = _new_batch(parts, body, key_id, file.file_id, body.endpoint)
    await parts.store.add_batch(batch)
    return await _shown(parts, batch)


@router.post("/batches/{batch_id}/retry", summary="Run what failed", responses=ERRORS)
async def retry(
    request: Request, batch_id: str, cortex: Cortex, body: BatchOptions | None = None
) -> Response:
    """A new batch of the lines of an ended one that were not answered."""
    parts = parts_of(cortex)
    failed = await _find(request, parts, batch_id)
    return await _retried(parts, failed, body or BatchOptions())


@router.get("/batches", summary="List batches", responses=ERRORS)
async def list_batches(
    request: Request,
    cortex: Cortex,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Batches, the newest first."""
    parts = parts_of(cortex)
    found = await parts.store.list_batches(after, limit + 1, only_of(request))
    return json_response(page([await _view(parts, batch) for batch in found], limit))


@router.get("/batches/{batch_id}", summary="Show a batch", responses=ERRORS)
async def show(request: Request, batch_id: str, cortex: Cortex) -> Response:
    """How far a batch is."""
    parts = parts_of(cortex)
    return await _shown(parts, await _find(request, parts, batch_id))


@router.post("/batches/{batch_id}/cancel", summary="Stop a batch", responses=ERRORS)
async def cancel(request: Request, batch_id: str, cortex: Cortex) -> Response:
    """Let a batch stop; what is answered by then is kept."""
    parts = parts_of(cortex)
    batch = await _find(request, parts, batch_id)
    if batch.state not in OPEN:
        # 400, never 409: clients send again what is answered 409.
        raise refusal(f"The batch has ended already: it is {batch.state.value}.", "batch_id")
    await parts.store.cancel_batch(batch_id)
    return await _shown(parts, batch)


async def _find(request: Request, parts: BatchParts, batch_id: str) -> Batch:
    batch = await parts.store.get_batch(batch_id)
    if batch is None or not sees(request, batch.key_id):
        message = f"There is no batch {batch_id[:80]}."
        raise ApiError(404, "batch_not_found", message, "batch_id")
    return batch


def _check_same(body: BatchRequest, failed: Batch) -> None:
    """Clients send both fields always: they are then those of the batch whose lines are meant."""
    given = {"input_file_id": body.input_file_id, "endpoint": body.endpoint}
    for name, value in given.items():
        if value not in (None, getattr(failed, name)):
            message = f"{name}: is not that of {failed.batch_id}; it may be left out."
            raise refusal(message, name)


async def _retried(parts: BatchParts, failed: Batch, body: BatchOptions) -> Response:
    if failed.state in OPEN:
        raise refusal("The batch has not ended yet.", "retry_failed_of", "batch_not_ended")
    if not failed.progress.has_errors:
        message = "The batch has no line that could be sent again."
        raise refusal(message, "retry_failed_of", "nothing_to_retry")
    now = time.time()
    file = StoredFile(
        file_id=new_id("file"),
        purpose="batch",
        filename=f"{failed.batch_id}_retry.jsonl",
        size_bytes=0,
        created_at=now,
        expires_at=now + BATCH_FILE_SECONDS,
        key_id=failed.key_id,
    )
    told = (
        body
        if body.metadata is not None
        else body.model_copy(update={"metadata": dict(failed.metadata)})
    )
    batch = replace(
        _new_batch(parts, told, failed.key_id, file.file_id, failed.endpoint),
        retry_of=failed.batch_id,
    )
    try:
        await FileKeeper(parts.store, parts.files).keep(file, failed_lines(parts.files, failed))
    except ObjectNotFoundError as error:
        message = "The batch's input or its file of errors is not there any more."
        raise refusal(message, "retry_failed_of", "file_not_found") from error
    except EngramError as error:
        raise storage_error(error) from error
    await parts.store.add_batch(batch)
    return await _shown(parts, batch)


def _new_batch(
    parts: BatchParts, body: BatchOptions, key_id: str, input_file_id: str, endpoint: str
) -> Batch:
    """Raises ApiError for a webhook that is not there for the key."""
    unknown = parts.webhooks.unknown(body.webhooks, key_id)
    if unknown is not None:
        message = f"webhooks: there is no endpoint {unknown}; CORTEX_WEBHOOKS names them."
        raise refusal(message, "webhooks", "webhook_not_found")
    now = time.time()
    kept = body.output_expires_after
    return Batch(
        batch_id=new_id("batch"),
        endpoint=endpoint,
        input_file_id=input_file_id,
        output_file_id=new_id("file"),
        error_file_id=new_id("file"),
        metadata=body.metadata or {},
        created_at=now,
        expires_at=now + body.window_seconds,
        key_id=key_id,
        output_seconds=kept.seconds if kept else None,
        webhooks=parts.webhooks.of_batch(body.webhooks, key_id),
    )


async def _shown(parts: BatchParts, batch: Batch) -> Response:
    known = await parts.store.get_batch(batch.batch_id)
    return json_response(await _view(parts, known or batch))


async def _view(parts: BatchParts, batch: Batch) -> dict[str, Any]:
    progress = batch.progress
    ended = batch.state not in OPEN
    completed, failed = await parts.counter.count(batch)
    stopping = not ended and batch.cancelling_at is not None
    times = {name: int(at) for name, at in progress.times.items()}
    if batch.cancelling_at is not None:
        times["cancelling"] = int(batch.cancelling_at)
    return {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": _errors(batch),
        "input_file_id": batch.input_file_id,
        "completion_window": _window(batch),
        "status": "cancelling" if stopping else batch.state.value,
        "output_file_id": batch.output_file_id if _has_output(batch) else None,
        "error_file_id": batch.error_file_id if progress.has_errors else None,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
        **{f"{state}_at": times.get(state) for state in _TIMED},
        "request_counts": {"total": progress.total, "completed": completed, "failed": failed},
        "metadata": dict(batch.metadata) or None,
        "retry_of": batch.retry_of,
        "webhooks": list(batch.webhooks),
    }


def _window(batch: Batch) -> str:
    """The time that it was given, as whole hours or minutes where it is."""
    seconds = round(batch.expires_at - batch.created_at)
    for unit, name in ((3600, "h"), (60, "m")):
        if seconds % unit == 0:
            return f"{seconds // unit}{name}"
    return f"{seconds}s"


def _has_output(batch: Batch) -> bool:
    """From its beginning: some clients read along."""
    if batch.state in (BatchState.IN_PROGRESS, BatchState.FINALIZING):
        return True
    return batch.progress.has_output


def _errors(batch: Batch) -> dict[str, Any] | None:
    if not batch.progress.errors:
        return None
    data = [
        {
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "line": error.line or None,
        }
        for error in batch.progress.errors
    ]
    return {"object": "list", "data": data}
