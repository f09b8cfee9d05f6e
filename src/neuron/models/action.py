"""What CORTEX asks of a worker."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from .lease import AttemptRef
from .worker import HeartbeatResponse, ModelHint, WorkerAction


class Action(BaseModel):
    """One wish; the same `action_id` may arrive more than once and counts once."""

    action_id: str
    kind: WorkerAction
    reason: str = ""
    jobs: list[AttemptRef] = Field(default_factory=list)
    config: dict[str, Any] = Field(default_factory=dict)
    deadline_seconds: float | None = None
    """How long running jobs may take to finish; None means the worker's shutdown_timeout."""


class HeartbeatAnswer(HeartbeatResponse):
    """CORTEX's answer with every action that it does not know to be done."""

    actions: list[Action] = Field(default_factory=list)
    prefetch: list[ModelHint] = Field(default_factory=list)
    """Models worth fetching before jobs come, the most wanted first."""
