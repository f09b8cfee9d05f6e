"""Prometheus metrics endpoint."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

router = APIRouter()


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """The worker's metrics, in Prometheus' text format."""
    worker = request.app.state.worker
    if worker is None:
        registry = CollectorRegistry()
    else:
        worker.refresh_metrics()
        registry = worker.metrics.registry
    return Response(content=generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
