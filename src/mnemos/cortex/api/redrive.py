"""The route that queues dead letters again by what they have in common."""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from mnemos.http import invalid_input

from ..records import DeadLetters
from ..state_machine import JobState
from . import documents
from .context import ApiContext, Cortex
from .schemas import Label, Moment
from .views import json_response

BUDGET_SECONDS = 5.0
"""After so long an answer is given and the caller asks for the rest."""
MAX_JOBS = 10_000_000

DeadState = Literal["failed", "timeout", "cancelled"]

router = APIRouter(prefix="/jobs", tags=["jobs"])


class Redrive(BaseModel):
    """Which ended jobs to queue again: those that fit everything that is said."""

    model_config = ConfigDict(extra="forbid")

    status: list[DeadState] = Field(default=["failed"], min_length=1)
    model: str | None = Field(default=None, min_length=1, description="family or family:version")
    group: Label | None = None
    error_code: Label | None = None
    finished_after: Moment | None = None
    finished_before: Moment | None = None
    limit: int = Field(
        default=MAX_JOBS, strict=True, ge=1, le=MAX_JOBS, description="The oldest go first."
    )
    dry_run: bool = Field(default=False, strict=True, description="Only count them.")
    cursor: str | None = Field(default=None, description="Goes on where an answer before stopped.")

    @field_validator("status", mode="before")
    @classmethod
    def _one_status_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


class RedriveResult(BaseModel):
    """How many jobs were queued again, or would be."""

    jobs: int
    dry_run: bool
    next_cursor: str | None
    """Set when there may be more: send the same again with it."""


@router.post(
    "/redrive",
    summary="Queue dead letters again",
    response_model=RedriveResult,
    responses=documents.errors(422, 503),
)
async def redrive_jobs(cortex: Cortex, wanted: Annotated[Redrive, Body()]) -> Response:
    """Give failed, timed out or cancelled jobs all their retries again, as retrying each would.

    For at most a few seconds: `next_cursor` asks for the rest. Jobs that fail anew meanwhile are
    left alone, so that it ends; sent again it finds nothing but those.
    """
    which, after = _dead_letters(wanted)
    if which.group is not None:
        which = replace(which, group=cortex.principal.own_name(which.group))
    if wanted.dry_run:
        count = await cortex.store.count_dead_letters(which, wanted.limit)
        return _answer(count, dry_run=True)
    return await _redrive(cortex, which, after, wanted.limit)


async def _redrive(cortex: ApiContext, which: DeadLetters, after: int, limit: int) -> Response:
    """Take step after step; others write between them as much as this does."""
    clock = asyncio.get_running_loop().time
    end = clock() + BUDGET_SECONDS
    done = 0
    while True:
        began = clock()
        step = await cortex.store.redrive(which, after, limit - done)
        done += step.jobs
        if step.next_seq is None or done == limit:
            return _answer(done)
        which, after = replace(which, finished_before=step.finished_before), step.next_seq
        if clock() > end:
            return _answer(done, next_cursor=_write_cursor(step.finished_before, after))
        await asyncio.sleep(clock() - began)


def _answer(jobs: int, *, dry_run: bool = False, next_cursor: str | None = None) -> Response:
    return json_response({"jobs": jobs, "dry_run": dry_run, "next_cursor": next_cursor})


def _dead_letters(wanted: Redrive) -> tuple[DeadLetters, int]:
    """What is meant, and after which job to go on."""
    family, _, version = (wanted.model or "").partition(":")
    before = _seconds(wanted.finished_before, "finished_before")
    after = 0
    if wanted.cursor is not None:
        before, after = _read_cursor(wanted.cursor)
    which = DeadLetters(
        statuses=tuple(JobState(word) for word in dict.fromkeys(wanted.status)),
        family=family or None,
        version=version or None,
        group=wanted.group,
        error_code=wanted.error_code,
        finished_after=_seconds(wanted.finished_after, "finished_after"),
        finished_before=before,
    )
    return which, after


def _seconds(moment: datetime | None, field: str) -> float | None:
    if moment is None:
        return None
    try:
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (OverflowError, ValueError) as error:
        raise invalid_input(f"{field}: is out of range.", field) from error


def _write_cursor(finished_before: float, after_seq: int) -> str:
    """Where a redrive goes on: what had ended at its beginning is meant, behind this job."""
    text = f"{finished_before.hex()} {after_seq}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[float, int]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True).decode()
        before, after = text.split(" ")
        place: tuple[Any, Any] = float.fromhex(before), int(after)
    except (UnicodeError, binascii.Error, ValueError, OverflowError):
        place = (0.0, -1)
    if not (0 <= place[0] < 2**62 and 0 <= place[1] < 2**62) or _write_cursor(*place) != cursor:
        raise invalid_input("cursor: is not a cursor that this service gave.", "cursor")
    return place
