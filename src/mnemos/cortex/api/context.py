"""What every route is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from ..genome_lookup import ModelCatalog
from ..notifier import Notifier
from ..store import Store
from ..telemetry import CortexMetrics


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The parts of CORTEX that routes speak to."""

    store: Store
    notifier: Notifier
    metrics: CortexMetrics
    catalog: ModelCatalog | None = None


def _context(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.context
    return context


Cortex = Annotated[ApiContext, Depends(_context)]
