"""The routes: /api/v1/models for the registry, /health* and /metrics for operators."""

from __future__ import annotations

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, ValidationError

from ..engram.keys import LATEST, check_name
from .checks import allowed_key
from .errors import GenomeUnavailableError, InvalidModelError
from .metrics import GenomeMetrics
from .models import (
    Family,
    FamilyVersions,
    Model,
    ModelPage,
    ModelSpec,
    ModelUpdate,
    ValidationProblem,
    ValidationReport,
)
from .store import ModelStore

MAX_PAGE = 500

_log = structlog.get_logger(__name__)

AskedVersion = Annotated[
    str, AfterValidator(allowed_key(lambda value: check_name(value, "version")))
]
"""A version, or the word `latest`."""


def models_router(store: ModelStore) -> APIRouter:
    """Everything below /api/v1/models."""
    router = APIRouter(prefix="/api/v1/models", tags=["models"])

    @router.post("", status_code=201, responses={200: {"description": "It was there already."}})
    async def register(spec: ModelSpec, response: Response, replace: bool = False) -> Model:
        """Register a version. The same content again answers 200, other content 409."""
        registration = await store.register(spec, replace=replace)
        response.status_code = 201 if registration.created else 200
        if registration.created:
            _log.info("genome.model_registered", family=spec.family, version=spec.version)
        return registration.model

    @router.post("/validate")
    async def validate(body: Annotated[Any, Body()]) -> ValidationReport:
        """Say everything that is wrong with a description; register nothing."""
        return check_description(body)

    @router.get("")
    async def list_models(
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
        cursor: str | None = None,
        family: Family | None = None,
        tag: Annotated[str | None, Query(max_length=128)] = None,
    ) -> ModelPage:
        """List versions of models, newest first."""
        return await store.list(limit=limit, cursor=cursor, family=family, tag=tag)

    @router.get("/{family}")
    async def show(family: Family, version: AskedVersion | None = None) -> Model:
        """Show a version; without one, or with `latest`, the newest registered."""
        return await store.get(family, None if version == LATEST else version)

    @router.get("/{family}/versions")
    async def versions(family: Family) -> FamilyVersions:
        """List a family's versions, newest first."""
        return await store.versions(family)

    @router.put("/{family}")
    async def update(
        family: Family, change: ModelUpdate, version: AskedVersion | None = None
    ) -> Model:
        """Change what is said about a version; its files stay as they are."""
        model = await store.update(family, _named(version), change.applied_to)
        _log.info("genome.model_updated", family=family, version=version)
        return model

    @router.delete("/{family}", status_code=204)
    async def forget(family: Family, version: AskedVersion | None = None) -> None:
        """Forget a version; its files stay in ENGRAM."""
        await store.delete(family, _named(version))
        _log.info("genome.model_deleted", family=family, version=version)

    return router


def operations_router(store: ModelStore, metrics: GenomeMetrics) -> APIRouter:
    """Health and numbers."""
    router = APIRouter(tags=["operations"])

    @router.get("/health")
    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok", "service": "genome"}

    @router.get("/health/ready")
    async def ready() -> JSONResponse:
        """Say whether models can be read and registered; 503 and the reasons if not."""
        try:
            await store.check()
        except GenomeUnavailableError as error:
            return JSONResponse({"ready": False, "reasons": [error.message]}, 503)
        return JSONResponse({"ready": True, "reasons": []})

    @router.get("/metrics")
    async def numbers() -> Response:
        """Prometheus' text format."""
        metrics.models.set(await store.count())
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def check_description(body: Any) -> ValidationReport:
    """Say everything that is wrong with a description."""
    try:
        ModelSpec.model_validate(body)
    except ValidationError as error:
        problems = [
            ValidationProblem(
                field=".".join(str(part) for part in each["loc"]) or None,
                message=each["msg"].removeprefix("Value error, "),
            )
            for each in error.errors(include_input=False, include_url=False)
        ]
        return ValidationReport(valid=False, errors=problems)
    return ValidationReport(valid=True)


def _named(version: str | None) -> str:
    """A change names its version: the newest may be another one a moment later."""
    if version is None or version == LATEST:
        raise InvalidModelError("version: say which version is meant, by its name.", "version")
    return version
