"""Routes for groups: jobs that belong together."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Response

from ..notifier import group_topic
from ..records import GroupCounts, JobRecord
from . import documents
from .context import ApiContext, Cortex
from .cursors import read_cursor, write_cursor
from .views import job_view, json_response

router = APIRouter(prefix="/groups", tags=["groups"])


@router.get(
    "/{group}/results",
    summary="Wait for results of a group",
    response_model=documents.GroupPage,
    responses=documents.errors(422, 503),
)
async def group_results(
    group: str,
    cortex: Cortex,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    wait_seconds: Annotated[float, Query(ge=0, le=60)] = 20,
) -> Response:
    """Finished jobs in finishing order; at once if there are any, or if all have finished."""
    group = cortex.principal.own_name(group)
    position = read_cursor(after, "after") if after else 0
    jobs, counts = await _wait(cortex, group, position, limit, wait_seconds)
    last = jobs[-1].finish_seq if jobs else position
    content = {
        "jobs": [job_view(job) for job in jobs],
        "next_cursor": write_cursor(last or 0),
        "counts": asdict(counts),
    }
    return json_response(content)


async def _wait(
    cortex: ApiContext, group: str, position: int, limit: int, wait_seconds: float
) -> tuple[list[JobRecord], GroupCounts]:
    clock = asyncio.get_running_loop().time
    end = clock() + wait_seconds
    with cortex.notifier.subscribe(group_topic(group)) as ear:
        while True:
            ear.clear()
            counts = await cortex.store.group_counts(group)
            jobs = await cortex.store.group_results(group, position, limit)
            done = counts.finished == counts.total
            left = end - clock()
            if jobs or done or left <= 0 or cortex.notifier.closed:
                return jobs, counts
            await ear.wait(left)


@router.post(
    "/{group}/cancel",
    summary="Cancel a group",
    response_model=documents.CancelledCount,
    responses=documents.errors(503),
)
async def cancel_group(group: str, cortex: Cortex) -> Response:
    """Stop every job of the group that has not ended."""
    return json_response(
        {"cancelled": await cortex.store.cancel_group(cortex.principal.own_name(group))}
    )
