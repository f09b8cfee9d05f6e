"""The route that autoscalers ask."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from mnemos.http import invalid_input

from ..demand import Demand, Pool, demand_for
from . import documents
from .context import Cortex
from .views import json_response

router = APIRouter(tags=["numbers"])


@router.get(
    "/demand",
    summary="Say how many workers the queue wants",
    response_model=documents.Demand,
    responses=documents.errors(422, 503),
)
async def demand(
    cortex: Cortex,
    runtime: Annotated[list[str] | None, Query(description="What the workers run")] = None,
    job_type: Annotated[list[str] | None, Query(description="Inference, unless named")] = None,
    memory_mb: Annotated[int | None, Query(ge=0, description="What one has free, in MiB")] = None,
    gpu_memory_mb: Annotated[int | None, Query(ge=0, description="The same of its GPU")] = None,
    tag: Annotated[
        list[str] | None, Query(description="Its tags, as name=value; empty: it has none")
    ] = None,
    slots: Annotated[int, Query(ge=1, le=1024, description="Jobs that one runs at a time")] = 1,
) -> Response:
    """Jobs that a worker of the kind described could run, and how many such workers they fill.

    What is not described fits everything. Jobs that run count too.
    """
    pool = Pool(
        runtimes=frozenset(runtime) if runtime else None,
        job_types=frozenset(job_type) if job_type else None,
        memory_mb=memory_mb,
        gpu_memory_mb=gpu_memory_mb,
        tags=None if tag is None else dict(map(_tag, filter(None, tag))),
        slots=slots,
    )
    numbers = await cortex.store.queue_numbers()
    return json_response(_view(demand_for(pool, numbers.lanes)))


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise invalid_input(f"tag: {text!r} is not of the form name=value.", "tag")
    return name, value


def _view(demand: Demand) -> dict[str, object]:
    return {
        "workers_wanted": demand.workers_wanted,
        "waiting": demand.waiting,
        "running": demand.running,
        "oldest_waiting_seconds": round(demand.oldest_waiting_seconds, 3),
        "models": [
            {
                "family": one.model.family,
                "version": one.model.version,
                "runtime": one.model.runtime,
                "min_memory_mb": one.min_memory_mb,
                "min_gpu_memory_mb": one.min_gpu_memory_mb,
                "waiting": one.waiting,
                "running": one.running,
            }
            for one in demand.models
        ],
    }
