"""Routes for numbers: the queue, totals."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter, Response

from ..records import ModelKey
from . import documents
from .context import Cortex
from .views import json_response

router = APIRouter(tags=["numbers"])


@router.get(
    "/queue",
    summary="Show the queue",
    response_model=documents.Queue,
    responses=documents.errors(503),
)
async def queue(cortex: Cortex) -> Response:
    """What waits and runs now, by priority and by model."""
    numbers = await cortex.store.queue_numbers()
    pending: Counter[ModelKey] = Counter()
    running: Counter[ModelKey] = Counter()
    by_priority: Counter[int] = Counter()
    for lane in numbers.lanes:
        pending[lane.model] += lane.pending
        running[lane.model] += lane.running
        by_priority[lane.priority] += lane.pending
    by_model = [
        {
            "family": model.family,
            "version": model.version,
            "runtime": model.runtime,
            "pending": pending[model],
            "running": running[model],
        }
        for model in sorted(pending | running, key=lambda key: (key.family, key.version))
    ]
    content = {
        "pending": pending.total(),
        "running": running.total(),
        "delayed": numbers.delayed,
        "oldest_pending_seconds": round(numbers.oldest_pending_seconds, 3),
        "by_priority": {str(key): by_priority[key] for key in sorted(by_priority, reverse=True)},
        "by_model": by_model,
    }
    return json_response(content)


@router.get(
    "/stats",
    summary="Count everything",
    response_model=documents.Stats,
    responses=documents.errors(503),
)
async def stats(cortex: Cortex) -> Response:
    """Jobs by status, workers by status, tokens."""
    totals = await cortex.store.totals()
    content = {
        "jobs": dict(totals.jobs),
        "workers": dict(totals.workers),
        "tokens_generated": totals.tokens_generated,
        "leases_expired": totals.leases_expired,
    }
    return json_response(content)
