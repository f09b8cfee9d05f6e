"""The HTTP application: routes, errors, documentation."""

from __future__ import annotations

import re

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.routing import Mount

from mnemos import __version__
from mnemos.http import error_body, install_error_handling

from ..errors import (
    ConflictError,
    CortexError,
    JobNotFoundError,
    LogPrunedError,
    StorageUnavailableError,
    WorkerNotFoundError,
)
from ..keys.gate import Gate
from ..openai.app import create_openai_app
from ..openai.files import MAX_FILE_BYTES
from ..openai.uploads import MAX_PART_BODY_BYTES
from ..webhooks import routes as webhooks
from . import demand, events, groups, health, jobs, keys, numbers, redrive, results, workers
from .context import ApiContext
from .quick_submit import QuickSubmit

_STATUS_BY_ERROR: dict[type[CortexError], int] = {
    JobNotFoundError: 404,
    LogPrunedError: 410,
    WorkerNotFoundError: 404,
    ConflictError: 409,
    StorageUnavailableError: 503,
}
_LARGER_BODIES = {"/v1/files": MAX_FILE_BYTES, "/v1/uploads/": MAX_PART_BODY_BYTES}
_DESCRIPTION = """
Submit jobs, follow them, and see who runs them.

Every error answer has the same body: a stable `code`, one sentence, and the field at fault.
"""


def create_app(context: ApiContext) -> FastAPI:
    """Build the application around one CORTEX."""
    app = FastAPI(
        title="MNEMOS CORTEX",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
    )
    app.state.context = context
    app.add_exception_handler(CortexError, _answer_cortex_error)
    app.add_middleware(QuickSubmit, context=context)
    app.add_middleware(Gate, keys=context.keys, limits=context.quotas.headers)
    install_error_handling(app, larger_bodies=_LARGER_BODIES)
    for part in (redrive, results, jobs, events, groups, workers, numbers, demand, keys, webhooks):
        app.include_router(part.router, prefix="/api/v1")
    app.include_router(health.router)
    app.router.routes.append(_mount("/v1", create_openai_app(context)))
    return app


def _mount(path: str, app: FastAPI) -> Mount:
    """Everything below `path`, with line ends too: starlette's own dot does not mean them."""
    mount = Mount(path, app)
    mount.path_regex = re.compile(mount.path_regex.pattern, re.DOTALL)
    return mount


async def _answer_cortex_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, CortexError)
    status = _STATUS_BY_ERROR.get(type(error), 500)
    headers = {"Retry-After": "2"} if status == 503 else None
    return JSONResponse(error_body(error.code, error.message), status, headers)
