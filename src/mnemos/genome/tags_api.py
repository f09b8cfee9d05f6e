"""The routes of version tags: names like `prod` that point to a version of their family."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response
from pydantic import AfterValidator

from ..engram.keys import check_name
from .answers import TagTarget, VersionTag, VersionTags
from .checks import allowed_key
from .models import Family
from .replies import IfMatch, IfNoneMatch, errors, reply
from .store import ModelStore
from .tagging import digest_of_tag

TagName = Annotated[str, AfterValidator(allowed_key(lambda value: check_name(value, "tag")))]
IfNew = Annotated[
    str | None, Header(alias="If-None-Match", description="`*`: only if there is no such tag yet.")
]


def tags_router(store: ModelStore) -> APIRouter:
    """Everything below /api/v1/models/{family}/tags."""
    router = APIRouter(prefix="/api/v1/models/{family}/tags", tags=["version tags"])

    @router.get("", response_model=VersionTags, responses=errors(304, 404))
    async def list_tags(family: Family, if_none_match: IfNoneMatch = None) -> Response:
        """List a family's version tags; `latest` is always among them."""
        return reply(await store.tags(family), if_none_match=if_none_match)

    @router.get("/{tag}", response_model=VersionTag, responses=errors(304, 404))
    async def show_tag(family: Family, tag: TagName, if_none_match: IfNoneMatch = None) -> Response:
        """Show which version a tag points to."""
        return _tag(await store.tag(family, tag), if_none_match=if_none_match)

    @router.put(
        "/{tag}",
        response_model=VersionTag,
        responses={
            201: {"model": VersionTag, "description": "There was no such tag before."},
            **errors(404, 409, 412),
        },
    )
    async def set_tag(
        family: Family,
        tag: TagName,
        target: TagTarget,
        if_match: IfMatch = None,
        if_none_match: IfNew = None,
    ) -> Response:
        """Let a tag point to a version. `latest` then stays there until it is deleted."""
        only_new = (if_none_match or "").strip() == "*"
        done = await store.set_tag(family, tag, target.version, if_match=if_match, if_new=only_new)
        return _tag(done.tag, status=201 if done.before is None else 200)

    @router.delete("/{tag}", status_code=204, responses=errors(404, 412))
    async def remove_tag(family: Family, tag: TagName, if_match: IfMatch = None) -> None:
        """Forget a tag; `latest` follows the newest registered version again."""
        await store.remove_tag(family, tag, if_match=if_match)

    return router


def _tag(tag: VersionTag, *, if_none_match: str | None = None, status: int = 200) -> Response:
    return reply(tag, digest=digest_of_tag(tag), if_none_match=if_none_match, status=status)
