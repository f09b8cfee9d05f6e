"""Which models a worker had better fetch before it is given jobs for them.

A worker that is busy has its disk and its line idle. It is told of models that waiting jobs need,
that it could run and does not have. So that one job does not make a fleet fetch its model, no more
workers are told of a model than jobs wait for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from .records import (
    MOST_COUNTED,
    DesiredState,
    Model,
    ModelKey,
    WaitingLane,
    WorkerRecord,
)
from .sql.fitting import Fit

MOST_HINTS = 4
"""How many models a worker is told of at a time."""
LOOK_AGAIN_SECONDS = 1.0
"""For so long what waits is taken to be what was seen."""
TOLD_SECONDS = 600.0
"""For so long a worker counts as one that fetches what it was told of."""
_WITHOUT_FILES = frozenset({"echo"})


class WaitingStore(Protocol):
    """What is asked of the store."""

    async def waiting_lanes(self) -> list[WaitingLane]: ...

    async def get_worker(self, worker_id: str) -> WorkerRecord: ...


class PrefetchAdvisor:
    """Says what to fetch ahead; asks the store once a second at most, whoever wants to know.

    Each CORTEX counts for itself whom it has told.
    """

    def __init__(self, store: WaitingStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._looking = asyncio.Lock()
        self._lanes: Sequence[WaitingLane] = ()
        self._looked_at: float | None = None
        self._told: defaultdict[Model, dict[str, float]] = defaultdict(dict)

    async def models_for(self, worker_id: str, has: Collection[Model]) -> list[ModelKey]:
        """Return models of waiting jobs that the worker could run, the most wanted first.

        `has` are those whose files it has. Raises WorkerNotFoundError, StorageUnavailableError.
        """
        wanted = _by_model(lane for lane in await self._waiting() if _model(lane) not in has)
        if not wanted:
            return []
        worker = await self._store.get_worker(worker_id)
        if worker.desired_state is not DesiredState.ACTIVE:
            return []
        hints = []
        for model, lanes in wanted.items():
            fitting = [lane for lane in lanes if _fits(lane, worker)]
            jobs = sum(lane.jobs for lane in fitting)
            if jobs and self._may_tell(model, worker_id, jobs):
                self._told[model][worker_id] = self._clock()
                hints.append(fitting[0].model)
            if len(hints) == MOST_HINTS:
                break
        return hints

    async def _waiting(self) -> Sequence[WaitingLane]:
        async with self._looking:
            now = self._clock()
            if self._looked_at is None or now - self._looked_at >= LOOK_AGAIN_SECONDS:
                lanes = await self._store.waiting_lanes()
                self._lanes = [lane for lane in lanes if lane.model.runtime not in _WITHOUT_FILES]
                self._looked_at = now
                self._forget_old(now)
            return self._lanes

    def _may_tell(self, model: Model, worker_id: str, jobs: int) -> bool:
        told = self._told[model]
        return worker_id in told or jobs >= MOST_COUNTED or len(told) < jobs

    def _forget_old(self, now: float) -> None:
        for model, told in list(self._told.items()):
            recent = {who: when for who, when in told.items() if now - when < TOLD_SECONDS}
            if recent:
                self._told[model] = recent
            else:
                del self._told[model]


def _by_model(lanes: Iterable[WaitingLane]) -> dict[Model, list[WaitingLane]]:
    """Lanes by what files they need; the most urgent, then the longest waiting, first."""
    models: dict[Model, list[WaitingLane]] = {}
    for lane in sorted(lanes, key=lambda lane: (-lane.priority, lane.submitted_at)):
        models.setdefault(_model(lane), []).append(lane)
    return models


def _model(lane: WaitingLane) -> Model:
    return Model(lane.model.family, lane.model.version)


def _fits(lane: WaitingLane, worker: WorkerRecord) -> bool:
    """Whether the worker could run the lane's jobs, by all that it ever offered."""
    fit = Fit.of(worker.capabilities, worker.tags)
    return (
        fit.offers(lane.model.runtime, lane.job_type)
        and fit.carries(json.loads(lane.tags))
        and lane.min_memory_mb <= worker.offered_memory_mb
        and lane.min_gpu_memory_mb <= worker.offered_gpu_memory_mb
    )
