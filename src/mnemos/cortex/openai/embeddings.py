"""`POST /v1/embeddings`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from ..api.context import Cortex
from ..api.schemas import Key
from ..api.views import json_response
from .answers import packed
from .asking import ask
from .documents import ERRORS
from .errors import refusal
from .requests import EmbeddingRequest, check_dimensions

router = APIRouter(tags=["embeddings"])


@router.post("/embeddings", summary="Turn texts into vectors", responses=ERRORS)
async def create(
    body: EmbeddingRequest,
    request: Request,
    cortex: Cortex,
    idempotency_key: Annotated[Key | None, Header()] = None,
) -> Response:
    """One vector a text, as numbers or as little-endian float32 in base64."""
    asked = await ask(cortex, body.jobs("/v1/embeddings"), idempotency_key)
    [answer] = await asked.answers(request)
    if answer.metadata.get("task") != "embed":
        raise refusal(f"model: {body.model} does not embed texts.", "model")
    vectors: list[list[float]] = answer.result
    check_dimensions(body.dimensions, vectors[0])
    as_text = body.encoding_format == "base64"
    data: list[dict[str, Any]] = [
        {
            "object": "embedding",
            "index": index,
            "embedding": packed(vector) if as_text else vector,
        }
        for index, vector in enumerate(vectors)
    ]
    tokens = answer.metadata.get("prompt_tokens", 0)
    return json_response(
        {
            "object": "list",
            "data": data,
            "model": f"{answer.job.family}:{answer.job.version}",
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )
