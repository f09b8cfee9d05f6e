"""Health check API endpoints."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response, status
from pydantic import BaseModel, Field

from .. import __version__
from .view import WorkerView

router = APIRouter()

NO_WORKER = "no worker runs in this process"


class HealthResponse(BaseModel):
    """Health check response."""

    status: str
    service: str
    version: str
    worker_id: str | None = None


class ReadinessResponse(BaseModel):
    """Whether the worker takes jobs, why not, and what else is wrong."""

    ready: bool
    reasons: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


def _worker(request: Request) -> WorkerView | None:
    worker: WorkerView | None = request.app.state.worker
    return worker


@router.get("/health", response_model=HealthResponse)
async def health_check(request: Request) -> HealthResponse:
    """The process is alive and its event loop answers."""
    worker = _worker(request)
    return HealthResponse(
        status="healthy",
        service="neuron",
        version=__version__,
        worker_id=worker.worker_id if worker else None,
    )


@router.get(
    "/ready",
    response_model=ReadinessResponse,
    responses={503: {"model": ReadinessResponse, "description": "The worker takes no jobs."}},
)
async def readiness_check(request: Request, response: Response) -> ReadinessResponse:
    """200 while the worker takes jobs; 503 and why while it does not."""
    worker = _worker(request)
    reasons = worker.not_ready_because() if worker else [NO_WORKER]
    if reasons:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return ReadinessResponse(
        ready=not reasons, reasons=reasons, warnings=worker.warnings() if worker else []
    )


@router.get("/info")
async def info(request: Request) -> dict[str, Any]:
    """What the worker is, runs and was told; secrets are masked."""
    worker = _worker(request)
    described: dict[str, Any] = worker.info() if worker else {"worker_id": None}
    return {"service": "neuron", "version": __version__, **described}
