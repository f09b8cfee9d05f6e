"""Routes for machines that watch: health, readiness, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from mnemos import __version__

from ..errors import StorageUnavailableError
from .context import Cortex
from .views import json_response

router = APIRouter(tags=["health"])


@router.get("/health", summary="Is the process alive?")
async def health() -> Response:
    """200 as long as the process answers."""
    return json_response({"status": "ok", "service": "cortex", "version": __version__})


@router.get("/ready", summary="Can jobs be taken?")
async def ready(cortex: Cortex) -> Response:
    """200 if the store can be written now; 503 and why if not."""
    try:
        await cortex.store.check_writable()
    except StorageUnavailableError as error:
        return json_response({"ready": False, "reasons": [error.message]}, 503)
    return json_response({"ready": True, "reasons": []})


@router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
async def metrics(cortex: Cortex) -> Response:
    """Prometheus's text format."""
    queue = await cortex.store.queue_numbers()
    totals = await cortex.store.totals()
    return Response(cortex.metrics.render(queue, totals), media_type=CONTENT_TYPE_LATEST)
