"""`/v1/batches`."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import Field

from mnemos.http import ApiError

from ..api.context import ApiContext, BatchParts, Cortex
from ..api.views import json_response
from ..batches.records import OPEN, Batch, BatchState
from ..ids import new_id
from .documents import ERRORS
from .errors import refusal
from .files import page, parts_of
from .requests import Strict

MAX_BATCH_FILE_BYTES = 200 * 1024 * 1024

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


class ExpiresAfter(Strict):
    """When the files of a batch's answers go."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


class BatchRequest(Strict):
    """`POST /v1/batches`."""

    input_file_id: str = Field(min_length=1, max_length=64)
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    completion_window: str = Field(default="24h", pattern=r"^[1-9][0-9]{0,4}[smh]$")
    metadata: dict[MetadataKey, MetadataValue] | None = Field(default=None, max_length=16)
    output_expires_after: ExpiresAfter | None = None

    @property
    def window_seconds(self) -> float:
        """How long it may take; OpenAI has 24h alone."""
        return (
            int(self.completion_window[:-1])
            * {"s": 1, "m": 60, "h": 3600}[self.completion_window[-1]]
        )


@router.post("/batches", summary="Run a file of requests", responses=ERRORS)
async def create(body: BatchRequest, cortex: Cortex) -> Response:
    """Answers at once; the file is checked, run and answered in the background."""
    parts = parts_of(cortex)
    file = await parts.store.get_file(body.input_file_id)
    if file is None:
        message = f"input_file_id: there is no file {body.input_file_id}."
        raise refusal(message, "input_file_id", "file_not_found")
    if file.purpose != "batch":
        raise refusal("input_file_id: the file's purpose is not batch.", "input_file_id")
    if file.size_bytes > MAX_BATCH_FILE_BYTES:
        raise refusal("input_file_id: a batch has at most 200 MiB.", "input_file_id")
    now = time.time()
    batch = Batch(
        batch_id=new_id("batch"),
        endpoint=body.endpoint,
        input_file_id=file.file_id,
        output_file_id=new_id("file"),
        error_file_id=new_id("file"),
        metadata=body.metadata or {},
        created_at=now,
        expires_at=now + body.window_seconds,
    )
    await parts.store.add_batch(batch)
    return await _shown(cortex, parts, batch)


@router.get("/batches", summary="List batches", responses=ERRORS)
async def list_batches(
    cortex: Cortex,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Batches, the newest first."""
    parts = parts_of(cortex)
    found = await parts.store.list_batches(after, limit + 1)
    return json_response(page([await _view(cortex, batch) for batch in found], limit))


@router.get("/batches/{batch_id}", summary="Show a batch", responses=ERRORS)
async def show(batch_id: str, cortex: Cortex) -> Response:
    """How far a batch is."""
    parts = parts_of(cortex)
    return await _shown(cortex, parts, await _find(parts, batch_id))


@router.post("/batches/{batch_id}/cancel", summary="Stop a batch", responses=ERRORS)
async def cancel(batch_id: str, cortex: Cortex) -> Response:
    """Let a batch stop; what is answered by then is kept."""
    parts = parts_of(cortex)
    batch = await _find(parts, batch_id)
    if batch.state not in OPEN:
        # 400, never 409: clients send again what is answered 409.
        raise refusal(f"The batch has ended already: it is {batch.state.value}.", "batch_id")
    await parts.store.cancel_batch(batch_id)
    return await _shown(cortex, parts, await _find(parts, batch_id))


async def _find(parts: BatchParts, batch_id: str) -> Batch:
    batch = await parts.store.get_batch(batch_id)
    if batch is None:
        message = f"There is no batch {batch_id[:80]}."
        raise ApiError(404, "batch_not_found", message, "batch_id")
    return batch


async def _shown(cortex: ApiContext, parts: BatchParts, batch: Batch) -> Response:
    return json_response(await _view(cortex, await _find(parts, batch.batch_id)))


async def _view(cortex: ApiContext, batch: Batch) -> dict[str, Any]:
    progress = batch.progress
    ended = batch.state not in OPEN
    completed, failed = progress.completed, progress.failed
    if not ended:
        completed = (await cortex.store.group_counts(batch.batch_id)).finished
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
