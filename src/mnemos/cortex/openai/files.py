"""`/v1/files`: what batches read and write."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Response, UploadFile
from fastapi.responses import StreamingResponse

from mnemos.engram.errors import EngramError
from mnemos.http import ApiError, unavailable

from ..api.context import BatchParts, Cortex
from ..api.views import json_response
from ..batches.finalizing import Finalizer
from ..batches.records import OPEN, Batch, StoredFile
from ..ids import new_id
from .documents import ERRORS
from .errors import refusal

PIECE_BYTES = 1024 * 1024
MAX_FILE_BYTES = 512 * 1024 * 1024
_JSON_LINES = "application/jsonl"

router = APIRouter(tags=["files"])

Purpose = Literal["batch", "assistants", "fine-tune", "vision", "user_data", "evals"]


@router.post("/files", summary="Upload a file", responses=ERRORS)
async def create(
    cortex: Cortex,
    file: UploadFile,
    purpose: Annotated[Purpose, Form()],
    anchor: Annotated[Literal["created_at"] | None, Form(alias="expires_after[anchor]")] = None,
    seconds: Annotated[
        int | None, Form(alias="expires_after[seconds]", ge=3600, le=2_592_000)
    ] = None,
) -> Response:
    """Keep a file in ENGRAM; it is there, whole, when this answers."""
    parts = parts_of(cortex)
    now = time.time()
    stored = StoredFile(
        file_id=new_id("file"),
        purpose=purpose,
        filename=(file.filename or "file")[:512],
        size_bytes=file.size or 0,
        created_at=now,
        expires_at=now + seconds if seconds and anchor else None,
    )
    try:
        await parts.files.write(stored.file_id, _uploaded(file))
    except EngramError as error:
        raise storage_error(error) from error
    await parts.store.add_file(stored)
    return json_response(view(stored))


@router.get("/files", summary="List files", responses=ERRORS)
async def list_files(
    cortex: Cortex,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """Files, the newest first unless asked otherwise."""
    parts = parts_of(cortex)
    found = await parts.store.list_files(purpose, after, limit + 1, oldest_first=order == "asc")
    return json_response(page([view(file) for file in found], limit))


@router.get("/files/{file_id}", summary="Show a file", responses=ERRORS)
async def show(file_id: str, cortex: Cortex) -> Response:
    """A file; the output of a batch that still runs has no size yet."""
    stored, batch = await _find(parts_of(cortex), file_id)
    return json_response(view(stored or _unwritten(file_id, batch)))


@router.get("/files/{file_id}/content", summary="Read a file", responses=ERRORS)
async def content(file_id: str, cortex: Cortex) -> Response:
    """The bytes of a file; of a batch that still runs, the answers that there are by now."""
    parts = parts_of(cortex)
    stored, batch = await _find(parts, file_id)
    if stored is not None:
        return StreamingResponse(
            _stored(parts, stored),
            media_type="application/octet-stream",
            headers={"Content-Length": str(stored.size_bytes)},
        )
    assert batch is not None
    if file_id != batch.output_file_id:
        return Response(b"", media_type=_JSON_LINES)
    pieces = Finalizer(cortex, parts.store, parts.files).answers_so_far(batch)
    return StreamingResponse(pieces, media_type=_JSON_LINES)


@router.delete("/files/{file_id}", summary="Delete a file", responses=ERRORS)
async def delete(file_id: str, cortex: Cortex) -> Response:
    """Remove a file. One that an open batch reads is still needed: 400."""
    parts = parts_of(cortex)
    stored, _ = await _find(parts, file_id)
    if stored is None:
        raise refusal("file_id: its batch has not ended yet.", "file_id")
    if await parts.store.is_read(file_id):
        raise refusal("file_id: an open batch reads this file.", "file_id")
    await parts.store.remove_file(file_id)
    try:
        await parts.files.remove(file_id)
    except EngramError as error:
        raise storage_error(error) from error
    return json_response({"id": file_id, "object": "file", "deleted": True})


def parts_of(cortex: Cortex) -> BatchParts:
    """Where files and batches are. Raises ApiError where there is no room for them."""
    if cortex.batches is None:
        message = "This CORTEX keeps no files: CORTEX_ENGRAM_URL says where they could lie."
        raise ApiError(400, "files_not_available", message)
    return cortex.batches


def storage_error(error: EngramError) -> ApiError:
    """What is told where ENGRAM fails."""
    return (
        unavailable(error.message)
        if error.retryable
        else ApiError(500, "storage_unavailable", error.message)
    )


def view(file: StoredFile) -> dict[str, Any]:
    """A file as OpenAI's clients read it."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def page(views: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A list, of one more than asked for where there are more."""
    shown = views[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(views) > limit,
    }


async def _find(parts: BatchParts, file_id: str) -> tuple[StoredFile | None, Batch | None]:
    """A file that is there, or the open batch that will write it. Raises ApiError."""
    stored = await parts.store.get_file(file_id)
    if stored is not None:
        return stored, None
    batch = await parts.store.batch_of_file(file_id)
    if batch is None or batch.state not in OPEN:
        raise ApiError(404, "file_not_found", f"There is no file {file_id[:80]}.", "file_id")
    return None, batch


def _unwritten(file_id: str, batch: Batch | None) -> StoredFile:
    assert batch is not None
    return StoredFile(
        file_id=file_id,
        purpose="batch_output",
        filename=f"{batch.batch_id}.jsonl",
        size_bytes=0,
        created_at=batch.created_at,
    )


async def _uploaded(file: UploadFile) -> AsyncIterator[bytes]:
    while piece := await file.read(PIECE_BYTES):
        yield piece


async def _stored(parts: BatchParts, file: StoredFile) -> AsyncIterator[bytes]:
    async for piece in parts.files.read(file.file_id):
        yield piece
