"""What may be asked of a worker, and what may be said with it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from mnemos.http import invalid_input

from ..records import DesiredState

LONGEST_DEADLINE_SECONDS = 86_400


class WorkerWish(StrEnum):
    """What can be asked of a worker."""

    DRAIN = "drain"
    PAUSE = "pause"
    RESUME = "resume"
    SHUTDOWN = "shutdown"
    RESTART = "restart"


DESIRED = {
    WorkerWish.DRAIN: DesiredState.DRAINING,
    WorkerWish.PAUSE: DesiredState.PAUSED,
    WorkerWish.RESUME: DesiredState.ACTIVE,
    WorkerWish.SHUTDOWN: DesiredState.DRAINING,
    WorkerWish.RESTART: DesiredState.DRAINING,
}


class WorkerDirection(BaseModel):
    """Why something is asked of a worker, and how long its jobs may still take."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str = Field(default="", max_length=1000)
    deadline_seconds: float | None = Field(
        default=None,
        ge=0,
        le=LONGEST_DEADLINE_SECONDS,
        allow_inf_nan=False,
        description="For drain, shutdown, restart: what does not finish by then is handed back.",
    )


def check_direction(wish: WorkerWish, direction: WorkerDirection) -> None:
    """Raise ApiError for a deadline where nothing ends."""
    if direction.deadline_seconds is not None and DESIRED[wish] is not DesiredState.DRAINING:
        raise invalid_input(
            f"deadline_seconds: goes with drain, shutdown and restart, not with {wish}.",
            "deadline_seconds",
        )
