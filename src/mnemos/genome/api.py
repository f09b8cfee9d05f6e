"""The routes of models and their versions, below /api/v1/models."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AfterValidator

from ..engram.keys import LATEST, check_name
from .answers import FamilyVersions, Model, ModelPage, ValidationReport, VersionOrder
from .bodies import ANY_BODY, SPEC_BODY, read_report, read_spec
from .checks import allowed_key
from .errors import InvalidModelError
from .models import ArtifactFormat, Family, ModelSpec, ModelUpdate, RuntimeName, Text
from .replies import IfMatch, IfNoneMatch, errors, not_modified, reply
from .store import Found, ModelQuery, ModelStore, VersionQuery

MAX_PAGE = 500

AskedVersion = Annotated[
    str, AfterValidator(allowed_key(lambda value: check_name(value, "version")))
]
"""A version, or a version tag."""
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


def models_router(store: ModelStore) -> APIRouter:
    """Everything below /api/v1/models but the version tags."""
    router = APIRouter(prefix="/api/v1/models", tags=["models"])

    @router.post(
        "",
        response_model=Model,
        status_code=201,
        responses={
            200: {"model": Model, "description": "It was there already."},
            **errors(409, 413),
        },
        openapi_extra=SPEC_BODY,
    )
    async def register(
        spec: Annotated[ModelSpec, Depends(read_spec)], replace: bool = False
    ) -> Response:
        """Register a version. The same content again answers 200, other content 409."""
        registered = await store.register(spec, replace=replace)
        return await _model(registered.found, status=201 if registered.created else 200)

    @router.post("/validate", responses=errors(413), openapi_extra=ANY_BODY)
    async def validate(
        report: Annotated[ValidationReport, Depends(read_report)],
    ) -> ValidationReport:
        """Say everything that is wrong with a description; register nothing."""
        return report

    @router.get("", response_model=ModelPage, responses=errors(304))
    async def list_models(
        limit: Limit = 50,
        cursor: str | None = None,
        family: Family | None = None,
        tag: Annotated[
            Text | None, Query(max_length=128, description="A label, as in the field `tags`.")
        ] = None,
        version_tag: Annotated[
            AskedVersion | None, Query(description="Only what a tag like `prod` points to.")
        ] = None,
        format: ArtifactFormat | None = None,
        runtime: RuntimeName | None = None,
        q: Annotated[
            Text | None,
            Query(
                max_length=200,
                description="Words in family, version, name, description, capabilities, labels.",
            ),
        ] = None,
        total: Annotated[bool, Query(description="Count all pages as well.")] = False,
        if_none_match: IfNoneMatch = None,
    ) -> Response:
        """List versions of models, newest first, without their files."""
        query = ModelQuery(
            limit=limit,
            cursor=cursor,
            family=family,
            label=tag,
            version_tag=version_tag,
            format=format,
            runtime=runtime,
            search=q,
            with_total=total,
        )
        return reply(await store.list(query), if_none_match=if_none_match)

    @router.get("/{family}", response_model=Model, responses=errors(304, 404))
    async def show(
        family: Family, version: AskedVersion | None = None, if_none_match: IfNoneMatch = None
    ) -> Response:
        """Show a version, named itself or by a version tag; `latest` if neither is given."""
        return await _model(await store.get(family, version, if_none_match=if_none_match))

    @router.get("/{family}/versions", response_model=FamilyVersions, responses=errors(304, 404))
    async def versions(
        family: Family,
        sort: VersionOrder = "newest",
        limit: Limit = MAX_PAGE,
        cursor: str | None = None,
        if_none_match: IfNoneMatch = None,
    ) -> Response:
        """List a family's versions: the newest first, or the highest by semantic versioning."""
        query = VersionQuery(limit=limit, cursor=cursor, order=sort)
        return reply(await store.versions(family, query), if_none_match=if_none_match)

    @router.put("/{family}", response_model=Model, responses=errors(404, 412))
    async def update(
        family: Family,
        change: ModelUpdate,
        version: AskedVersion | None = None,
        if_match: IfMatch = None,
    ) -> Response:
        """Change what is said about a version; its files stay as they are."""
        named = _named(version)
        return await _model(await store.update(family, named, change.changes(), if_match=if_match))

    @router.delete("/{family}", status_code=204, responses=errors(404, 409, 412))
    async def forget(
        family: Family,
        version: AskedVersion | None = None,
        force: Annotated[
            bool, Query(description="Delete the version tags that point to it as well.")
        ] = False,
        if_match: IfMatch = None,
    ) -> None:
        """Forget a version; its files stay in ENGRAM."""
        await store.delete(family, _named(version), force=force, if_match=if_match)

    return router


async def _model(found: Found, *, status: int = 200) -> Response:
    if found.document is None:
        return not_modified(found.digest)
    # In a thread, since a model may have thousands of files.
    return await asyncio.to_thread(reply, found.document, digest=found.digest, status=status)


def _named(version: str | None) -> str:
    """A change names its version: `latest` may be another one a moment later."""
    if version is None or version == LATEST:
        raise InvalidModelError("version: say which version is meant, by its name.", "version")
    return version
