"""What CORTEX keeps of deliveries, whatever database it is in."""

from __future__ import annotations

from typing import Protocol

from .records import Delivery, DeliveryState


class DeliveryStore(Protocol):
    """The outbox of webhooks. Deliveries are added where a batch ends."""

    async def claim(self, endpoint: str, limit: int, seconds: float) -> list[Delivery]:
        """Give deliveries of `endpoint` that are due, each to one caller for `seconds`."""

    async def next_due(self, endpoint: str) -> float | None:
        """Return when the next delivery of `endpoint` is due, if there is one."""

    async def delivered(self, delivery: Delivery) -> None:
        """Note that it has arrived."""

    async def try_later(self, delivery: Delivery, seconds: float, error: str) -> None:
        """Let it be due again in `seconds`."""

    async def give_up(self, delivery: Delivery, error: str) -> None:
        """Try it no more."""

    async def list_deliveries(self, state: DeliveryState | None, limit: int) -> list[Delivery]:
        """Return deliveries, newest first."""

    async def forget(self, ended_before: float, limit: int) -> int:
        """Drop deliveries that ended long ago; return how many."""
