"""What OpenAI's clients find below /v1."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from mnemos import __version__

from ..api.context import ApiContext
from . import batches, chat, completions, embeddings, files, models, uploads
from .asking import ClientGoneError
from .errors import install_errors

CLIENT_CLOSED_REQUEST = 499
_DESCRIPTION = "Chats, completions, embeddings and models, as OpenAI's clients ask for them."


def create_openai_app(context: ApiContext) -> FastAPI:
    """Build the application, to be mounted at /v1; its document is /v1/openapi.json."""
    app = FastAPI(
        title="MNEMOS CORTEX for OpenAI's clients",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
    )
    app.state.context = context
    install_errors(app)
    app.add_exception_handler(ClientGoneError, _answer_nobody)
    for part in (chat, completions, embeddings, models, files, uploads, batches):
        app.include_router(part.router)
    return app


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    return JSONResponse(None, CLIENT_CLOSED_REQUEST)
