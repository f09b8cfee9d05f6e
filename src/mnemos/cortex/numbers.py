"""Numbers over the store, and what a commit adds to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .records import ModelKey


@dataclass(frozen=True, slots=True)
class LaneCount:
    """Jobs that demand the same of a worker, at one priority; `tags` is JSON text."""

    model: ModelKey
    priority: int
    pending: int
    running: int
    job_type: str
    min_memory_mb: int
    min_gpu_memory_mb: int
    tags: str
    waited_seconds: float | None
    """How long the job waits that goes first; None where none may be claimed now."""


@dataclass(frozen=True, slots=True)
class QueueNumbers:
    """The queue at one moment."""

    lanes: Sequence[LaneCount]
    delayed: int
    oldest_pending_seconds: float


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of everything stored."""

    jobs: Mapping[str, int]
    workers: Mapping[str, int]
    tokens_generated: int
    leases_expired: int


@dataclass(slots=True)
class Measurements:
    """What happened, for the metrics; delivered after the commit."""

    ended: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    tokens: int = 0
    leases_expired: int = 0

    def add(self, other: Measurements) -> None:
        """Join another operation's measurements to these."""
        self.ended.update(other.ended)
        self.waits += other.waits
        self.durations += other.durations
        self.attempts += other.attempts
        self.tokens += other.tokens
        self.leases_expired += other.leases_expired
