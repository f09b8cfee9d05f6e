"""The routes for operators: /health* and /metrics."""

from __future__ import annotations

import math

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from .errors import RETRY_SECONDS, GenomeUnavailableError
from .metrics import GenomeMetrics
from .store import ModelStore


def operations_router(store: ModelStore, metrics: GenomeMetrics) -> APIRouter:
    """Health and numbers."""
    router = APIRouter(tags=["operations"])

    @router.get("/health")
    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok", "service": "genome"}

    @router.get("/health/ready", responses={503: {"description": "They cannot; why is told."}})
    async def ready() -> JSONResponse:
        """Say whether models can be read and registered; 503 and the reasons if not."""
        try:
            await store.check()
        except GenomeUnavailableError as error:
            body = {"ready": False, "reasons": [error.message]}
            return JSONResponse(body, 503, {"Retry-After": str(RETRY_SECONDS)})
        return JSONResponse({"ready": True, "reasons": []})

    @router.get("/metrics", response_class=PlainTextResponse)
    async def numbers() -> Response:
        """Prometheus' text format; genome_models is NaN while the database is away."""
        try:
            metrics.models.set(await store.count())
        except GenomeUnavailableError:
            metrics.models.set(math.nan)
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
