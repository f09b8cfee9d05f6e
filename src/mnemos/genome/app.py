"""GENOME's HTTP application."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from ..http import describe_validation_errors, error_body, install_error_handling
from .api import models_router
from .bodies import located
from .errors import RETRY_SECONDS, GenomeError
from .gate import Gate
from .metrics import GenomeMetrics, MetricsMiddleware
from .operations_api import operations_router
from .store import ModelStore
from .tags_api import tags_router


def create_app(
    store: ModelStore, *, token: str | None = None, guard_reads: bool = False
) -> FastAPI:
    """Wire the routes to `store`, which must stay open as long as the app serves.

    With a token, changes need it; with `guard_reads` as well, everything but health does.
    """
    metrics = GenomeMetrics()
    app = FastAPI(
        title="MNEMOS GENOME",
        version=version("mnemos-neuron"),
        description="The models' registry.",
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.include_router(models_router(store))
    app.include_router(tags_router(store))
    app.include_router(operations_router(store, metrics))
    app.add_exception_handler(GenomeError, _answer_genome_error)
    if token is not None:
        app.add_middleware(Gate, token=token, guard_reads=guard_reads)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    install_error_handling(app)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    return app


async def _answer_genome_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GenomeError)
    headers = {"Retry-After": str(RETRY_SECONDS)} if error.retryable else None
    return JSONResponse(error_body(error.code, error.message, error.field), error.status, headers)


async def _answer_validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    message, field = describe_validation_errors(located(error.errors()))
    return JSONResponse(error_body("invalid_input", message, field), 422)
