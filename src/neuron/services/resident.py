"""One model that is in memory, comes in, or goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from ..errors import NeuronError
from .engine import Engine, EngineKey
from .engine_gate import EngineGate
from .load_progress import LoadProgress, OnProgress
from .memory_budget import RAM, Footprint


class ResidentState(Enum):
    """Where it is; the last three hold memory."""

    FETCHING = auto()
    WAITING = auto()
    """Its files are here, and there is no room for it yet."""
    STARTING = auto()
    READY = auto()
    STOPPING = auto()


_WAITING = LoadProgress("waiting for the model")
NEWS_PER_SECOND = 100
"""How many jobs are told in a second how far a load is; where more wait, each hears less often."""
_HOLDING = {ResidentState.STARTING, ResidentState.READY, ResidentState.STOPPING}


@dataclass(eq=False, slots=True)
class Resident:
    """An engine with those who use it and those who wait for it."""

    key: EngineKey
    engine: Engine
    pinned: bool = False
    state: ResidentState = ResidentState.FETCHING
    users: int = 0
    footprint: Footprint = field(default_factory=dict)
    """What it was estimated, later measured, to hold."""
    last_used: float = field(default_factory=time.monotonic)
    waiting_since: float = 0.0
    ready_since: float = 0.0
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it is ready, or has failed with `error`."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once no process is left."""
    error: NeuronError | None = None
    digest: str | None = None
    """That of its files, once they are here; None if it has none."""
    has_files: bool = False
    """Whether it keeps files on the disk."""
    is_current: Callable[[], bool] = lambda: True
    """Whether these files still lie where the engine reads them."""
    progress: LoadProgress = _WAITING
    told_at: float = 0.0
    listeners: set[OnProgress] = field(default_factory=set)
    gate: EngineGate = field(default_factory=EngineGate)
    task: asyncio.Task[None] | None = None

    @property
    def holds_memory(self) -> bool:
        """Whether it counts against the budget."""
        return self.state in _HOLDING

    @property
    def is_loading(self) -> bool:
        """Whether it is on its way in."""
        return not self.settled.is_set() and self.state is not ResidentState.STOPPING

    @property
    def is_idle(self) -> bool:
        """Whether it could go now."""
        return self.state is ResidentState.READY and self.users == 0 and not self.pinned

    @property
    def takes_users(self) -> bool:
        """Whether a job may join those who use it or wait for it."""
        if self.state is ResidentState.READY:
            return self.engine.is_alive
        return self.state is not ResidentState.STOPPING

    @property
    def held(self) -> Footprint:
        """What it holds now: engines grow while they work."""
        main = self.main_pools
        grown = self.engine.memory_mb // max(1, len(main))
        return {
            pool: max(size, grown) if pool in main else size
            for pool, size in self.footprint.items()
        }

    @property
    def main_pools(self) -> list[str]:
        """Where the weights lie: GPUs, or else RAM."""
        return [pool for pool in self.footprint if pool != RAM] or [RAM]

    def measured(self) -> Footprint:
        """What it turned out to hold once it was loaded, with a little room to work in."""
        main = self.main_pools
        each = int(self.engine.memory_mb * 1.1) // len(main)
        return {pool: each if pool in main else size for pool, size in self.footprint.items()}

    def tell(self, progress: LoadProgress) -> None:
        """Say to all who wait how far it is."""
        self.progress = progress
        now = time.monotonic()
        if progress.counts_on and now - self.told_at < len(self.listeners) / NEWS_PER_SECOND:
            return
        self.told_at = now
        for listener in list(self.listeners):
            listener(progress)

    def evict(self) -> None:
        """Have it stop; `gone` says when it has."""
        self.state = ResidentState.STOPPING
        if self.task is not None:
            self.task.cancel()
