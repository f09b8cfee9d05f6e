"""`GET /v1/models`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from mnemos.http import unavailable

from ..api.context import ApiContext, Cortex
from ..api.views import json_response
from ..genome_lookup import CatalogUnavailableError, ListedModel, ModelUnknownError
from .documents import ERRORS
from .model_names import split_name, unknown_model

router = APIRouter(tags=["models"])


@router.get("/models", summary="List models", responses=ERRORS)
async def list_models(cortex: Cortex) -> Response:
    """Every version of every model that is registered, the newest first."""
    models = [] if cortex.catalog is None else await _listed(cortex)
    return json_response({"object": "list", "data": [_view(model) for model in models]})


@router.get("/models/{name:path}", summary="Show a model", responses=ERRORS)
async def get_model(name: str, cortex: Cortex) -> Response:
    """A model by `family:version`, by `family:tag`, or its newest version by `family`."""
    family, version = split_name(name)
    if cortex.catalog is None:
        raise unknown_model(name)
    try:
        return json_response(_view(await cortex.catalog.describe(family, version)))
    except ModelUnknownError as error:
        raise unknown_model(name) from error
    except CatalogUnavailableError as error:
        raise unavailable(error.message) from error


async def _listed(cortex: ApiContext) -> list[ListedModel]:
    assert cortex.catalog is not None
    try:
        return await cortex.catalog.list_models()
    except CatalogUnavailableError as error:
        raise unavailable(error.message) from error


def _view(model: ListedModel) -> dict[str, Any]:
    return {
        "id": f"{model.family}:{model.version}",
        "object": "model",
        "created": int(model.created_at),
        "owned_by": "mnemos",
    }
