"""What is kept of what webhooks are told; times are Unix time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DeliveryState(StrEnum):
    """How far a delivery is."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event for one endpoint. `event_id` is the same in every attempt."""

    event_id: str
    endpoint: str
    kind: str
    batch_id: str
    created_at: float
    attempts: int = 0
    next_at: float | None = None
    """When it is tried next; None once that has ended."""
    state: DeliveryState = DeliveryState.WAITING
    ended_at: float | None = None
    error: str | None = None
    """What the last attempt failed of."""
