"""`/v1/uploads`: files that come in parts."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Request, Response, UploadFile
from pydantic import Field

from mnemos.engram.errors import EngramError
from mnemos.http import ApiError, unavailable

from ..api.context import BatchParts, Cortex
from ..api.views import json_response
from ..batches.keeping import FileKeeper
from ..batches.records import PartVerdict, StoredFile, Upload, UploadState
from ..batches.sweeping import clean_upload
from ..errors import CortexError
from ..ids import new_id
from ..principal import principal_of
from .documents import ERRORS
from .errors import refusal
from .expiry import MAX_BATCH_FILE_BYTES, ExpiresAfter
from .files import (
    MAX_NAME,
    Purpose,
    default_seconds,
    parts_of,
    read_form,
    sees,
    storage_error,
    view,
)
from .requests import Strict

UPLOAD_SECONDS = 3600.0
MAX_UPLOAD_BYTES = 8 * 1024**3
MAX_PART_BYTES = 64 * 1024 * 1024
MAX_PART_BODY_BYTES = MAX_PART_BYTES + 64 * 1024
"""A part, and the form that it comes in."""
PART_SECONDS = 300.0

_log = structlog.get_logger(__name__)

router = APIRouter(tags=["uploads"])

PartId = Annotated[str, Field(min_length=1, max_length=64)]


class UploadRequest(Strict):
    """`POST /v1/uploads`."""

    purpose: Purpose
    filename: str = Field(min_length=1, max_length=MAX_NAME)
    size_bytes: int = Field(alias="bytes", ge=1, le=MAX_UPLOAD_BYTES)
    mime_type: str = Field(min_length=1, max_length=256)
    expires_after: ExpiresAfter | None = None


class CompleteRequest(Strict):
    """`POST /v1/uploads/{id}/complete`."""

    part_ids: list[PartId] = Field(min_length=1, max_length=10_000)
    md5: str | None = Field(default=None, pattern=r"^([0-9a-fA-F]{32})?$")


@router.post("/uploads", summary="Begin a file in parts", responses=ERRORS)
async def create(request: Request, body: UploadRequest, cortex: Cortex) -> Response:
    """An upload that takes parts for an hour."""
    parts = parts_of(cortex)
    if body.purpose == "batch" and body.size_bytes > MAX_BATCH_FILE_BYTES:
        raise refusal("bytes: a batch has at most 200 MiB.", "bytes")
    now = time.time()
    given = body.expires_after
    upload = Upload(
        upload_id=new_id("upload"),
        key_id=principal_of(request.scope).key_id,
        purpose=body.purpose,
        filename=body.filename,
        size_bytes=body.size_bytes,
        created_at=now,
        expires_at=now + UPLOAD_SECONDS,
        file_seconds=given.seconds if given else default_seconds(body.purpose),
        clean_at=now + UPLOAD_SECONDS,
    )
    await parts.store.add_upload(upload)
    return json_response(_view(upload))


@router.post("/uploads/{upload_id}/parts", summary="Send a part", responses=ERRORS)
async def add_part(request: Request, upload_id: str, cortex: Cortex, data: UploadFile) -> Response:
    """Keep a part; it is there, whole, when this answers. Their order is said at the end."""
    parts = parts_of(cortex)
    upload = await _find(request, parts, upload_id)
    _check_pending(upload)
    size = data.size or 0
    if not 0 < size <= MAX_PART_BYTES:
        raise refusal("data: a part has 1 byte to 64 MiB.", "data")
    part_id = new_id("part")
    try:
        async with asyncio.timeout(PART_SECONDS):
            await parts.files.write_part(upload_id, part_id, read_form(data))
    except EngramError as error:
        raise storage_error(error) from error
    except TimeoutError as error:
        raise unavailable("Writing the part took too long.") from error
    now = time.time()
    verdict = await parts.store.add_part(upload_id, part_id, size, now)
    if verdict is not PartVerdict.ADDED:
        await _remove_part(parts, upload_id, part_id)
        if verdict is PartVerdict.TOO_MUCH:
            message = f"data: the upload was to have {upload.size_bytes} bytes; this is too much."
            raise refusal(message, "data", "too_many_bytes")
        _check_pending(await _find(request, parts, upload_id))
    told = {"id": part_id, "object": "upload.part", "created_at": int(now)}
    return json_response({**told, "upload_id": upload_id})


@router.post("/uploads/{upload_id}/complete", summary="Make the file", responses=ERRORS)
async def complete(
    request: Request, upload_id: str, body: CompleteRequest, cortex: Cortex
) -> Response:
    """Join the parts in the order that is given; sent again, it answers the same."""
    parts = parts_of(cortex)
    upload = await _find(request, parts, upload_id)
    if _was_made_of(upload, body):
        return await _made(request, parts, upload)
    _check_pending(upload)
    await _check_parts(parts, upload, body.part_ids)
    try:
        ended = await _join(parts, upload, body)
    except EngramError as error:
        # Another who completed or cancelled it meanwhile has taken the parts away.
        ended = await _find(request, parts, upload_id)
        if ended.state is UploadState.PENDING:
            raise storage_error(error) from error
    if not _was_made_of(ended, body):
        _check_pending(ended)
        raise unavailable("Making the file took too long; complete the upload again.")
    await _clean(parts, ended)
    return await _made(request, parts, ended)


@router.post("/uploads/{upload_id}/cancel", summary="Drop an upload", responses=ERRORS)
async def cancel(request: Request, upload_id: str, cortex: Cortex) -> Response:
    """Take away its parts; no more are taken."""
    parts = parts_of(cortex)
    await _find(request, parts, upload_id)
    ended = await parts.store.cancel_upload(upload_id, time.time())
    if ended is None:
        raise _unknown(upload_id)
    if ended.state is not UploadState.CANCELLED:
        _check_pending(ended)
    await _clean(parts, ended)
    return json_response(_view(ended))


async def _find(request: Request, parts: BatchParts, upload_id: str) -> Upload:
    upload = await parts.store.get_upload(upload_id)
    if upload is None or not sees(request, upload.key_id):
        raise _unknown(upload_id)
    return upload


def _unknown(upload_id: str) -> ApiError:
    message = f"There is no upload {upload_id[:80]}."
    return ApiError(404, "upload_not_found", message, "upload_id")


def _state_of(upload: Upload) -> UploadState:
    if upload.state is UploadState.PENDING and time.time() >= upload.expires_at:
        return UploadState.EXPIRED
    return upload.state


def _check_pending(upload: Upload) -> None:
    state = _state_of(upload)
    if state is not UploadState.PENDING:
        message = f"The upload is {state.value}: it takes no more."
        raise refusal(message, "upload_id", f"upload_{state.value}")


async def _check_parts(parts: BatchParts, upload: Upload, part_ids: list[str]) -> None:
    """Refuse parts that are not there, come twice, or are not as much as was said."""
    [(most, count)] = Counter(part_ids).most_common(1)
    if count > 1:
        raise refusal(f"part_ids: {most} is named {count} times.", "part_ids")
    sizes = await parts.store.part_sizes(upload.upload_id)
    for part_id in part_ids:
        if part_id not in sizes:
            message = f"part_ids: the upload has no part {part_id}."
            raise refusal(message, "part_ids", "part_not_found")
    total = sum(sizes[part_id] for part_id in part_ids)
    if total != upload.size_bytes:
        message = f"part_ids: they have {total} bytes, and {upload.size_bytes} were to come."
        raise refusal(message, "part_ids", "size_mismatch")


async def _join(parts: BatchParts, upload: Upload, body: CompleteRequest) -> Upload:
    """Make the file; return the upload as it is then, which another may have ended meanwhile.

    Raises ApiError, EngramError, having kept nothing.
    """
    keeper = FileKeeper(parts.store, parts.files)
    file = _file_of(upload)
    ended = upload
    try:
        checksum = hashlib.md5(usedforsecurity=False)
        pieces = _checked(parts.files.joined(upload.upload_id, body.part_ids), checksum)
        file = await keeper.write(file, pieces)
        if body.md5 and checksum.hexdigest() != body.md5.lower():
            message = "md5: is not that of the parts; they can be sent again."
            raise refusal(message, "md5", "checksum_mismatch")
        known = await parts.store.complete_upload(upload.upload_id, body.part_ids, file)
        if known is None:
            raise _unknown(upload.upload_id)
        ended = known
    finally:
        if ended.file_id != file.file_id:
            await keeper.drop(file.file_id)
    return ended


def _was_made_of(upload: Upload, body: CompleteRequest) -> bool:
    completed = upload.state is UploadState.COMPLETED
    return completed and list(upload.part_ids) == body.part_ids


async def _made(request: Request, parts: BatchParts, upload: Upload) -> Response:
    assert upload.file_id is not None
    file = await parts.store.get_file(upload.file_id, time.time())
    if file is None:
        raise ApiError(404, "file_not_found", "The upload's file was deleted.", "upload_id")
    return json_response({**_view(upload), "file": view(file)})


def _file_of(upload: Upload) -> StoredFile:
    now = time.time()
    return StoredFile(
        file_id=new_id("file"),
        purpose=upload.purpose,
        filename=upload.filename,
        size_bytes=upload.size_bytes,
        created_at=now,
        expires_at=now + upload.file_seconds if upload.file_seconds else None,
        key_id=upload.key_id,
    )


async def _checked(
    pieces: AsyncGenerator[bytes, None], checksum: Any
) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        async for piece in pieces:
            checksum.update(piece)
            yield piece


async def _remove_part(parts: BatchParts, upload_id: str, part_id: str) -> None:
    try:
        await parts.files.remove_part(upload_id, part_id)
    except EngramError as error:  # it goes with all that is left of the upload
        _log.warning("upload.part_stays_for_now", part_id=part_id, error=error.message)


async def _clean(parts: BatchParts, upload: Upload) -> None:
    """Take away the parts at once; where that fails, the sweeper does it."""
    try:
        await clean_upload(parts.store, parts.files, upload, time.time())
    except (EngramError, CortexError) as error:
        _log.warning("upload.stays_for_now", upload_id=upload.upload_id, error=error.message)


def _view(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.upload_id,
        "object": "upload",
        "bytes": upload.size_bytes,
        "created_at": int(upload.created_at),
        "expires_at": int(upload.expires_at),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": _state_of(upload).value,
        "file": None,
    }
