"""The worker's own states, and the only table of allowed changes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import structlog

from ..models.worker import WorkerStatus

logger = structlog.get_logger(__name__)


class WorkerPhase(StrEnum):
    """Where a worker is in its life."""

    START = "start"
    INITIALIZING = "initializing"
    CONNECTING = "connecting"
    REGISTERING = "registering"
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    SHUTTING_DOWN = "shutting_down"
    STOPPED = "stopped"


_P = WorkerPhase
TRANSITIONS: Mapping[WorkerPhase, frozenset[WorkerPhase]] = {
    _P.START: frozenset({_P.INITIALIZING}),
    _P.INITIALIZING: frozenset({_P.CONNECTING, _P.SHUTTING_DOWN, _P.STOPPED}),
    _P.CONNECTING: frozenset({_P.REGISTERING, _P.SHUTTING_DOWN, _P.STOPPED}),
    _P.REGISTERING: frozenset({_P.STARTING, _P.SHUTTING_DOWN, _P.STOPPED}),
    _P.STARTING: frozenset({_P.IDLE, _P.SHUTTING_DOWN, _P.STOPPED}),
    _P.IDLE: frozenset({_P.BUSY, _P.SHUTTING_DOWN, _P.STOPPED}),
    _P.BUSY: frozenset({_P.IDLE, _P.SHUTTING_DOWN, _P.STOPPED}),
    _P.SHUTTING_DOWN: frozenset({_P.STOPPED}),
    _P.STOPPED: frozenset(),
}

_STATUS = {
    _P.IDLE: WorkerStatus.IDLE,
    _P.BUSY: WorkerStatus.BUSY,
    _P.SHUTTING_DOWN: WorkerStatus.SHUTTING_DOWN,
    _P.STOPPED: WorkerStatus.SHUTTING_DOWN,
}


class Lifecycle:
    """The phase the worker is in; every change is checked and logged."""

    def __init__(self) -> None:
        self.phase = WorkerPhase.START

    @property
    def status(self) -> WorkerStatus:
        """What CORTEX is told of the phase."""
        return _STATUS.get(self.phase, WorkerStatus.INITIALIZING)

    @property
    def is_running(self) -> bool:
        """Whether the worker can run jobs."""
        return self.phase in (WorkerPhase.IDLE, WorkerPhase.BUSY)

    def enter(self, phase: WorkerPhase) -> None:
        """Go to another phase; to the same one is no change."""
        if phase is self.phase:
            return
        if phase not in TRANSITIONS[self.phase]:
            raise RuntimeError(f"a worker cannot go from {self.phase} to {phase}")
        logger.info("worker_state_changed", previous=self.phase.value, state=phase.value)
        self.phase = phase
