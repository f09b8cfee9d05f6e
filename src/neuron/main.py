"""FastAPI health API for NEURON worker."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from . import __version__
from .api import health, metrics
from .api.view import WorkerView
from .config import load_settings


def create_app(worker: WorkerView | None = None) -> FastAPI:
    """Create the worker's API; without a worker it says that none runs in this process."""
    app = FastAPI(
        title="NEURON Worker API",
        description="Health and metrics API for NEURON worker",
        version=__version__,
    )
    app.state.worker = worker
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["GET"], allow_headers=["*"]
    )
    app.include_router(health.router, tags=["health"])
    app.include_router(metrics.router, tags=["metrics"])
    return app


def __getattr__(name: str) -> FastAPI:
    # `uvicorn neuron.main:app` finds the app; importing this module alone makes none.
    if name == "app":
        return create_app()
    raise AttributeError(name)


if __name__ == "__main__":
    import uvicorn

    settings = load_settings()
    uvicorn.run(
        create_app(),
        host=settings.api_host,
        port=settings.api_port,
        log_level=settings.log_level.lower(),
    )
