"""A job's log as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from mnemos.http import invalid_input

from ..records import EventRecord
from . import documents
from .context import ApiContext, Cortex
from .following import follow
from .ownership import check_own
from .views import encode, job_view

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get(
    "/{job_id}/stream",
    summary="Follow a job",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Events until the job's end"},
        **documents.errors(404, 410, 422, 503),
    },
)
async def stream_job(
    job_id: str,
    cortex: Cortex,
    from_sequence: Annotated[int, Query(ge=0, lt=2**62)] = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    """States and tokens from a sequence number on; `end` with the job closes the stream.

    `Last-Event-ID: n` continues after event n, as browsers do by themselves. Of a job that ended
    long ago the log may be kept no longer (410); the job itself still has its result.
    """
    start = _after(last_event_id) if last_event_id else from_sequence
    await check_own(cortex, job_id)
    await cortex.store.read_events(job_id, start, 1)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        _follow(cortex, job_id, start), media_type="text/event-stream", headers=headers
    )


def _after(last_event_id: str) -> int:
    if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 19):
        raise invalid_input("Last-Event-ID: must be a sequence number.", "Last-Event-ID")
    return int(last_event_id) + 1


async def _follow(cortex: ApiContext, job_id: str, start: int) -> AsyncIterator[bytes]:
    async with aclosing(follow(cortex, [job_id], start)) as pages:
        async for _, events in pages:
            yield b"".join(map(_line, events)) or b": keep-alive\n\n"
    if not cortex.notifier.closed:
        view = job_view(await cortex.store.get_job(job_id))
        yield b"event: end\ndata: " + encode(view) + b"\n\n"


def _line(event: EventRecord) -> bytes:
    return f"id: {event.sequence}\nevent: {event.kind}\ndata: {event.data}\n\n".encode()
