"""What GENOME needs of a store. Every answer is durable before it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from .answers import FamilyVersions, VersionOrder, VersionTag, VersionTags
from .models import ModelSpec

Document = dict[str, Any]
"""A model as it is given out: an answers.Model in JSON's own types."""


class Found(NamedTuple):
    """A model and the digest in its ETag; no document where the caller has it already."""

    document: Document | None
    digest: str


class Registered(NamedTuple):
    """What is registered now, and whether this call changed anything."""

    found: Found
    created: bool


class TagSet(NamedTuple):
    """Where a version tag points now, and the version that it was set to before, if it was."""

    tag: VersionTag
    before: str | None


@dataclass(frozen=True, kw_only=True)
class ModelQuery:
    """Which models to list; None asks for no filter."""

    limit: int
    cursor: str | None = None
    family: str | None = None
    label: str | None = None
    version_tag: str | None = None
    format: str | None = None
    runtime: str | None = None
    search: str | None = None
    """Words that must all stand in the names, the description, the capabilities or labels."""
    with_total: bool = False


@dataclass(frozen=True, kw_only=True)
class VersionQuery:
    """Which versions of a family to list, and in which order."""

    limit: int
    cursor: str | None = None
    order: VersionOrder = "newest"


class ModelStore(Protocol):
    """Keeps descriptions. Raises GenomeError only; a cancelled write may still take place.

    Where a `version` may also be a version tag it is called `asked`. `if_match` is that header
    of HTTP: a change raises ModelChangedError where it does not name the present ETag.
    """

    async def register(self, spec: ModelSpec, *, replace: bool = False) -> Registered:
        """Add a version. The same content again changes nothing; other content is a
        ModelConflictError unless `replace`, and so is the name of a version tag.
        """
        ...

    async def get(
        self, family: str, asked: str | None = None, *, if_none_match: str | None = None
    ) -> Found:
        """Return a version; without `asked`, what `latest` points to. Raises ModelNotFoundError."""
        ...

    async def list(self, query: ModelQuery) -> Document:
        """Return an answers.ModelPage, newest first. Raises InvalidModelError for the cursor."""
        ...

    async def versions(self, family: str, query: VersionQuery) -> FamilyVersions:
        """Return a family's versions. Raises ModelNotFoundError, InvalidModelError."""
        ...

    async def update(
        self,
        family: str,
        version: str,
        changes: Mapping[str, Any],
        *,
        if_match: str | None = None,
    ) -> Found:
        """Put `changes` in the place of what is said about a version. Raises ModelNotFoundError."""
        ...

    async def delete(
        self, family: str, version: str, *, force: bool = False, if_match: str | None = None
    ) -> None:
        """Forget a version; its files stay. Raises ModelNotFoundError.

        ModelConflictError while a version tag points to it, unless `force`: they go with it.
        """
        ...

    async def tags(self, family: str) -> VersionTags:
        """Return a family's version tags. Raises ModelNotFoundError."""
        ...

    async def tag(self, family: str, name: str) -> VersionTag:
        """Return one version tag. Raises ModelNotFoundError, TagNotFoundError."""
        ...

    async def set_tag(
        self, family: str, name: str, version: str, *, if_match: str | None, if_new: bool
    ) -> TagSet:
        """Let a tag point to a version; with `if_new` only if there is no such tag yet.

        Raises ModelNotFoundError, and ModelConflictError where a version has that name.
        """
        ...

    async def remove_tag(self, family: str, name: str, *, if_match: str | None = None) -> None:
        """Forget a tag; `latest` follows the newest version again. Raises TagNotFoundError."""
        ...

    async def check(self) -> None:
        """Return when the store can be written. Raises GenomeUnavailableError."""
        ...

    async def count(self) -> int:
        """Return how many versions of models are registered."""
        ...
