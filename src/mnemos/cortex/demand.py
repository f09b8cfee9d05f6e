"""How many workers the queue wants: what an autoscaler asks.

Whoever asks describes the workers that it could start, a *pool*. It is told of the jobs that such
a worker could run, whether or not one is there yet, so that a pool can grow from nothing.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .numbers import LaneCount
from .records import ModelKey

_USUAL_JOB_TYPES = frozenset({"inference", "batch_inference"})


@dataclass(frozen=True, slots=True)
class Pool:
    """Workers of one kind; None: whatever is asked for."""

    runtimes: frozenset[str] | None = None
    job_types: frozenset[str] | None = None
    memory_mb: int | None = None
    gpu_memory_mb: int | None = None
    tags: Mapping[str, str] | None = None
    slots: int = 1
    """How many jobs one worker runs at a time."""

    def runs(self, lane: LaneCount) -> bool:
        """Say whether a worker of this kind could run the lane's jobs."""
        return (
            (self.runtimes is None or lane.model.runtime in self.runtimes)
            and lane.job_type in (self.job_types or _USUAL_JOB_TYPES)
            and (self.memory_mb is None or lane.min_memory_mb <= self.memory_mb)
            and (self.gpu_memory_mb is None or lane.min_gpu_memory_mb <= self.gpu_memory_mb)
            and self._carries(json.loads(lane.tags))
        )

    def _carries(self, asked_for: Mapping[str, str]) -> bool:
        if self.tags is None:
            return True
        return all(self.tags.get(name) == value for name, value in asked_for.items())


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """What one model's jobs want; the memory is the most that any of them demands."""

    model: ModelKey
    min_memory_mb: int
    min_gpu_memory_mb: int
    waiting: int
    running: int


@dataclass(frozen=True, slots=True)
class Demand:
    """What the queue wants of a pool."""

    workers_wanted: int
    waiting: int
    running: int
    oldest_waiting_seconds: float
    models: Sequence[ModelDemand]


def demand_for(pool: Pool, lanes: Sequence[LaneCount]) -> Demand:
    """Count the jobs that the pool's workers could run, and the workers for all at once.

    Running jobs count, wherever they run: taking their workers away would cost them an attempt.
    """
    fitting = [lane for lane in lanes if pool.runs(lane)]
    waiting = sum(lane.pending for lane in fitting)
    running = sum(lane.running for lane in fitting)
    return Demand(
        workers_wanted=math.ceil((waiting + running) / pool.slots),
        waiting=waiting,
        running=running,
        oldest_waiting_seconds=max((lane.waited_seconds or 0.0 for lane in fitting), default=0.0),
        models=by_model(fitting),
    )


def by_model(lanes: Sequence[LaneCount]) -> list[ModelDemand]:
    """Sum lanes up, the model that most jobs wait for first."""
    waiting: Counter[ModelKey] = Counter()
    running: Counter[ModelKey] = Counter()
    memory_mb: dict[ModelKey, tuple[int, int]] = {}
    for lane in lanes:
        waiting[lane.model] += lane.pending
        running[lane.model] += lane.running
        most = memory_mb.get(lane.model, (0, 0))
        memory_mb[lane.model] = (
            max(most[0], lane.min_memory_mb),
            max(most[1], lane.min_gpu_memory_mb),
        )
    order = sorted(memory_mb, key=lambda key: (-waiting[key], key.family, key.version, key.runtime))
    return [
        ModelDemand(model, *memory_mb[model], waiting[model], running[model]) for model in order
    ]
