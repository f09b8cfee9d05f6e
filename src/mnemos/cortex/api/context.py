"""What every route is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends, Request

from ..batches.objects import FileObjects
from ..batches.store import FilesAndBatches
from ..big_results import ResultObjects
from ..genome_lookup import ModelListing
from ..input_schema.checker import InputChecker
from ..notifier import Notifier
from ..store import Store
from ..telemetry import CortexMetrics


@dataclass(frozen=True, slots=True)
class BatchParts:
    """Where files and batches are kept."""

    store: FilesAndBatches
    files: FileObjects


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


async def _context(request: Request) -> ApiContext:
    # Not a plain function: that would cost a thread's work for each request.
    context: ApiContext = request.app.state.context
    return context


Cortex = Annotated[ApiContext, Depends(_context)]
