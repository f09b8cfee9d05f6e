"""`/v1/files`: what batches read and write."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Request, Response, UploadFile
from fastapi.responses import StreamingResponse

from mnemos.engram.errors import EngramError, ObjectNotFoundError
from mnemos.http import ApiError, unavailable

from ..api.context import BatchParts, Cortex
from ..api.views import json_response
from ..batches.finalizing import Finalizer
from ..batches.keeping import FileKeeper
from ..batches.records import OPEN, Batch, StoredFile
from ..ids import new_id
from ..principal import ADMIN, principal_of
from .documents import ERRORS
from .errors import refusal

PIECE_BYTES = 1024 * 1024
MAX_FILE_BYTES = 512 * 1024 * 1024
BATCH_FILE_SECONDS = 30 * 86_400
MAX_NAME = 512
_JSON_LINES = "application/jsonl"

router = APIRouter(tags=["files"])

Purpose = Literal["batch", "assistants", "fine-tune", "vision", "user_data", "evals"]


@router.post("/files", summary="Upload a file", responses=ERRORS)
async def create(
    request: Request,
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
    if (anchor is None) != (seconds is None):
        raise refusal("expires_after: has both anchor and seconds.", "expires_after")
    now = time.time()
    kept_seconds = seconds or default_seconds(purpose)
    stored = StoredFile(
        file_id=new_id("file"),
        purpose=purpose,
        filename=(file.filename or "file")[:MAX_NAME],
        size_bytes=file.size or 0,
        created_at=now,
        expires_at=now + kept_seconds if kept_seconds else None,
        key_id=principal_of(request.scope).key_id,
    )
    try:
        stored = await FileKeeper(parts.store, parts.files).keep(stored, read_form(file))
    except EngramError as error:
        raise storage_error(error) from error
    return json_response(view(stored))


@router.get("/files", summary="List files", responses=ERRORS)
async def list_files(
    request: Request,
    cortex: Cortex,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """Files, the newest first unless asked otherwise."""
    found = await parts_of(cortex).store.list_files(
        purpose,
        after,
        limit + 1,
        oldest_first=order == "asc",
        now=time.time(),
        key_id=only_of(request),
    )
    return json_response(page([view(file) for file in found], limit))


@router.get("/files/{file_id}", summary="Show a file", responses=ERRORS)
async def show(request: Request, file_id: str, cortex: Cortex) -> Response:
    """A file; the output of a batch that still runs has no size yet."""
    stored, batch = await _find(request, parts_of(cortex), file_id)
    return json_response(view(stored or _unwritten(file_id, batch)))


@router.get("/files/{file_id}/content", summary="Read a file", responses=ERRORS)
async def content(request: Request, file_id: str, cortex: Cortex) -> Response:
    """The bytes of a file; of a batch that still runs, the answers that there are by now."""
    parts = parts_of(cortex)
    stored, batch = await _find(request, parts, file_id)
    if stored is not None:
        return StreamingResponse(
            await _begun(parts.files.read(file_id)),
            media_type="application/octet-stream",
            headers={"Content-Length": str(stored.size_bytes)},
        )
    assert batch is not None
    if file_id != batch.output_file_id:
        return Response(b"", media_type=_JSON_LINES)
    pieces = Finalizer(cortex, parts.store, parts.files).answers_so_far(batch)
    return StreamingResponse(pieces, media_type=_JSON_LINES)


@router.delete("/files/{file_id}", summary="Delete a file", responses=ERRORS)
async def delete(request: Request, file_id: str, cortex: Cortex) -> Response:
    """Remove a file. One that an open batch reads is still needed: 400."""
    parts = parts_of(cortex)
    stored, _ = await _find(request, parts, file_id)
    if stored is None:
        raise refusal("file_id: its batch has not ended yet.", "file_id")
    if await parts.store.is_read(file_id):
        raise refusal("file_id: an open batch reads this file.", "file_id")
    try:
        # The object first: where this is cut off, what is left can be deleted again.
        await parts.files.remove(file_id)
    except EngramError as error:
        raise storage_error(error) from error
    await parts.store.remove_file(file_id)
    return json_response({"id": file_id, "object": "file", "deleted": True})


def default_seconds(purpose: str) -> int | None:
    """How long a file is kept whose uploader does not say: a batch's for 30 days."""
    return BATCH_FILE_SECONDS if purpose == "batch" else None


def only_of(request: Request) -> str | None:
    """The key whose things alone are listed for a request; None: everybody's."""
    principal = principal_of(request.scope)
    return None if principal.may(ADMIN) else principal.key_id


def sees(request: Request, key_id: str) -> bool:
    """Say whether what belongs to a key is shown to who asks."""
    only = only_of(request)
    return only is None or only == key_id


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


async def _begun(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Pieces of which the first is there: what cannot be read is told as an error."""
    try:
        first = await anext(pieces, b"")
    except ObjectNotFoundError as error:
        raise ApiError(404, "file_not_found", "The file is not there any more.") from error
    except EngramError as error:
        raise storage_error(error) from error

    async def all_pieces() -> AsyncGenerator[bytes, None]:
        async with aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    return all_pieces()


async def find_file(request: Request, parts: BatchParts, file_id: str) -> StoredFile | None:
    """A file that is there and that is this request's to see."""
    stored = await parts.store.get_file(file_id, time.time())
    return stored if stored is not None and sees(request, stored.key_id) else None


async def _find(
    request: Request, parts: BatchParts, file_id: str
) -> tuple[StoredFile | None, Batch | None]:
    """A file that is there, or the open batch that will write it. Raises ApiError."""
    stored = await find_file(request, parts, file_id)
    if stored is not None:
        return stored, None
    batch = await parts.store.batch_of_file(file_id)
    if batch is None or batch.state not in OPEN or not sees(request, batch.key_id):
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


async def read_form(file: UploadFile) -> AsyncGenerator[bytes, None]:
    """A file of a form, piece by piece."""
    while piece := await file.read(PIECE_BYTES):
        yield piece
