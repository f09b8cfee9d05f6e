"""What every route is given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Protocol

from fastapi import Depends, Request

from ..batches.counting import LineCounter
from ..batches.objects import FileObjects
from ..batches.store import FilesAndBatches
from ..big_results import ResultObjects
from ..genome_lookup import ModelListing
from ..input_schema.checker import InputChecker
from ..keys.directory import KeyDirectory
from ..keys.quotas import Quotas
from ..notifier import Notifier
from ..principal import ANYONE, Principal, principal_of
from ..records import NewJob, Submitted
from ..store import Store
from ..telemetry import CortexMetrics
from ..webhooks.endpoints import Endpoints
from .submission import Preparation


@dataclass(frozen=True, slots=True)
class BatchParts:
    """Where files and batches are kept."""

    store: FilesAndBatches
    files: FileObjects
    counter: LineCounter
    webhooks: Endpoints = field(default_factory=Endpoints)
    """Who is told when a batch ends."""


class Leaving(Protocol):
    """Who cancels jobs that nobody waits for any more."""

    def leave(self, job_ids: Iterable[str]) -> None:
        """Let jobs be cancelled soon; returns at once."""


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The parts of CORTEX that routes speak to."""

    store: Store
    notifier: Notifier
    metrics: CortexMetrics
    abandoned: Leaving
    catalog: ModelListing | None = None
    results: ResultObjects | None = None
    """Where big results are, if CORTEX was told."""
    batches: BatchParts | None = None
    """Files and batches, if CORTEX was told of an ENGRAM."""
    inputs: InputChecker = field(default_factory=InputChecker)
    keys: KeyDirectory | None = None
    """Who may do what; None where everybody may do everything."""
    quotas: Quotas = field(default_factory=Quotas)
    principal: Principal = ANYONE
    """Who asks, in what a route is given."""

    def asked_by(self, principal: Principal) -> ApiContext:
        """The same CORTEX, as somebody sees it."""
        return self if principal is ANYONE else replace(self, principal=principal)

    @property
    def preparation(self) -> Preparation:
        """What jobs are checked against that whoever asks submits."""
        return Preparation(self.catalog, self.store, self.inputs, key_id=self.principal.key_id)

    async def submit(self, jobs: Sequence[NewJob]) -> list[Submitted]:
        """Store jobs of whoever asks in one commit; the same idempotency key gives the first back.

        Raises ApiError (429, 413) where the key's limits do not allow them.
        """
        key_id = self.principal.key_id
        if not key_id:
            return await self.store.submit(jobs)
        async with self.quotas.admitted(key_id, jobs):
            stored = await self.store.submit(jobs)
        self.quotas.stored(jobs, stored)
        return [_in_own_words(one, key_id) for one in stored]


def _in_own_words(stored: Submitted, key_id: str) -> Submitted:
    """A conflict told with the idempotency key as it was given."""
    if stored.conflict is None:
        return stored
    return replace(stored, conflict=stored.conflict.replace(f"{key_id}:", ""))


async def _context(request: Request) -> ApiContext:
    # Not a plain function: that would cost a thread's work for each request.
    context: ApiContext = request.app.state.context
    return context.asked_by(principal_of(request.scope))


Cortex = Annotated[ApiContext, Depends(_context)]
