"""Routes for workers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Response

from . import documents
from .context import ApiContext, Cortex
from .directions import DESIRED, WorkerDirection, WorkerWish, check_direction
from .views import json_response, worker_view

router = APIRouter(prefix="/workers", tags=["workers"])
Direction = Annotated[WorkerDirection | None, Body()]


@router.get(
    "",
    summary="List workers",
    response_model=documents.WorkerList,
    responses=documents.errors(503),
)
async def list_workers(cortex: Cortex) -> Response:
    """All workers that CORTEX knows, lost ones too, oldest first."""
    workers = await cortex.store.list_workers()
    return json_response({"workers": [worker_view(worker) for worker in workers]})


@router.get(
    "/{worker_id}",
    summary="Show a worker",
    response_model=documents.Worker,
    responses=documents.errors(404, 503),
)
async def get_worker(worker_id: str, cortex: Cortex) -> Response:
    """One worker."""
    return await _answer(cortex, worker_id)


@router.post(
    "/{worker_id}/{wish}",
    summary="Ask something of a worker",
    response_model=documents.Worker,
    responses=documents.errors(404, 422, 503),
)
async def direct_worker(
    worker_id: str, wish: WorkerWish, cortex: Cortex, direction: Direction = None
) -> Response:
    """Told at once; a paused or draining worker is given no more jobs from now on."""
    told = direction or WorkerDirection()
    check_direction(wish, told)
    await cortex.store.direct_worker(
        worker_id, wish.value, DESIRED[wish], told.reason, told.deadline_seconds
    )
    return await _answer(cortex, worker_id)


async def _answer(cortex: ApiContext, worker_id: str) -> Response:
    return json_response(worker_view(await cortex.store.get_worker(worker_id)))
