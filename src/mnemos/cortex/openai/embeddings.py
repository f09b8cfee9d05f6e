"""`POST /v1/embeddings`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from ..api.context import Cortex
from ..api.schemas import Key
from ..api.views import json_response
from .answers import as_base64
from .asking import Answer, ask
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
    return json_response(
        embeddings_of(answer, packed=body.encoding_format == "base64", dimensions=body.dimensions)
    )


def embeddings_of(answer: Answer, *, packed: bool, dimensions: int | None) -> dict[str, Any]:
    """The body of an answer. Raises ApiError for one that is no vectors, or not such long ones."""
    model = f"{answer.job.family}:{answer.job.version}"
    if answer.metadata.get("task") != "embed":
        raise refusal(f"model: {model} does not embed texts.", "model")
    vectors: list[list[float]] = answer.result
    check_dimensions(dimensions, vectors[0])
    data: list[dict[str, Any]] = [
        {
            "object": "embedding",
            "index": index,
            "embedding": as_base64(vector) if packed else vector,
        }
        for index, vector in enumerate(vectors)
    ]
    tokens = answer.metadata.get("prompt_tokens", 0)
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
