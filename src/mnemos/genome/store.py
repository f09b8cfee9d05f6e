"""What GENOME needs of a store. Every answer is durable before it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from .models import FamilyVersions, Model, ModelPage, ModelSpec


class Registration(NamedTuple):
    """A registered model, and whether this call changed anything."""

    model: Model
    created: bool


class ModelStore(Protocol):
    """Keeps descriptions. Raises GenomeError only; a cancelled write may still take place."""

    async def register(self, spec: ModelSpec, *, replace: bool = False) -> Registration:
        """Add a version. The same content again changes nothing; other content is a
        ModelConflictError unless `replace`.
        """
        ...

    async def get(self, family: str, version: str | None = None) -> Model:
        """Return a version, or the newest registered one. Raises ModelNotFoundError."""
        ...

    async def list(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        family: str | None = None,
        tag: str | None = None,
    ) -> ModelPage:
        """Return models, newest first. Raises InvalidModelError for a strange cursor."""
        ...

    async def versions(self, family: str) -> FamilyVersions:
        """Return a family's versions, newest first. Raises ModelNotFoundError."""
        ...

    async def update(
        self, family: str, version: str, change: Callable[[ModelSpec], ModelSpec]
    ) -> Model:
        """Put what `change` makes of a version in its place. Raises ModelNotFoundError."""
        ...

    async def delete(self, family: str, version: str) -> None:
        """Forget a version; its files stay. Raises ModelNotFoundError."""
        ...

    async def check(self) -> None:
        """Return when the store can be written. Raises GenomeUnavailableError."""
        ...

    async def count(self) -> int:
        """Return how many versions of models are registered."""
        ...
