"""GENOME's HTTP application."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from ..http import error_body, install_error_handling
from .api import models_router, operations_router
from .errors import GenomeError
from .metrics import GenomeMetrics, MetricsMiddleware
from .store import ModelStore

_RETRY_SECONDS = 2


def create_app(store: ModelStore) -> FastAPI:
    """Wire the routes to `store`, which must stay open as long as the app serves."""
    metrics = GenomeMetrics()
    app = FastAPI(
        title="MNEMOS GENOME",
        version=version("mnemos-neuron"),
        description="The models' registry.",
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(models_router(store))
    app.include_router(operations_router(store, metrics))
    app.add_exception_handler(GenomeError, _answer_genome_error)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    install_error_handling(app)
    return app


async def _answer_genome_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GenomeError)
    headers = {"Retry-After": str(_RETRY_SECONDS)} if error.retryable else None
    return JSONResponse(error_body(error.code, error.message, error.field), error.status, headers)
