"""What webhooks are told, until it has arrived."""

from __future__ import annotations

from collections.abc import Sequence

from ..webhooks.records import Delivery, DeliveryState
from ..webhooks.topics import WEBHOOKS_TOPIC
from .engine import LOCK_FREE, Row, fields_of
from .readers import Readers
from .transaction import Transaction
from .writer import Writer

_ADD = """
INSERT INTO deliveries (event_id, endpoint, kind, batch_id, created_at, attempts, next_at, state)
VALUES (:event_id, :endpoint, :kind, :batch_id, :now, 0, :now, 'waiting')
ON CONFLICT (event_id, endpoint) DO NOTHING
"""
_DUE = f"""
SELECT event_id FROM deliveries WHERE endpoint = :endpoint AND next_at <= :now
ORDER BY next_at LIMIT :limit {LOCK_FREE}
"""  # noqa: S608  constants only
_CLAIM = """
UPDATE deliveries SET next_at = :until, attempts = attempts + 1
WHERE event_id = :event_id AND endpoint = :endpoint RETURNING *
"""
_NEXT = """
SELECT next_at FROM deliveries WHERE endpoint = :endpoint AND next_at IS NOT NULL
ORDER BY next_at LIMIT 1
"""
_END = """
UPDATE deliveries SET next_at = NULL, state = :state, ended_at = :now, error = :error
WHERE event_id = :event_id AND endpoint = :endpoint
"""
_LATER = """
UPDATE deliveries SET next_at = :next_at, error = :error
WHERE event_id = :event_id AND endpoint = :endpoint AND state = 'waiting'
"""
_LIST = """
SELECT * FROM deliveries WHERE :state = '' OR state = :state
ORDER BY created_at DESC, event_id, endpoint LIMIT :limit
"""
_FORGET = """
DELETE FROM deliveries WHERE event_id IN (
    SELECT event_id FROM deliveries WHERE ended_at < :before LIMIT :limit
) AND ended_at < :before RETURNING event_id
"""


def add(tx: Transaction, event_id: str, kind: str, batch_id: str, endpoints: Sequence[str]) -> None:
    """Note what endpoints are to be told, each once."""
    event = {"event_id": event_id, "kind": kind, "batch_id": batch_id, "now": tx.now}
    for endpoint in endpoints:
        tx.run(_ADD, {**event, "endpoint": endpoint})
        tx.topics.add(WEBHOOKS_TOPIC)


class SqlDeliveries:
    """A DeliveryStore. Its methods raise StorageUnavailableError."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def claim(self, endpoint: str, limit: int, seconds: float) -> list[Delivery]:
        """Give deliveries of `endpoint` that are due, each to one caller for `seconds`."""

        def claim(tx: Transaction) -> list[Delivery]:
            wanted = {"endpoint": endpoint, "now": tx.now, "limit": limit}
            due = [row["event_id"] for row in tx.all(_DUE, wanted)]
            until = {"endpoint": endpoint, "until": tx.now + seconds}
            rows = (tx.one(_CLAIM, {**until, "event_id": event_id}) for event_id in due)
            return [_delivery(row) for row in rows if row is not None]

        return await self._writer.run(claim)

    async def next_due(self, endpoint: str) -> float | None:
        """Return when the next delivery of `endpoint` is due, if there is one."""
        row = await self._readers.run(
            lambda db: db.execute(_NEXT, {"endpoint": endpoint}).fetchone()
        )
        return None if row is None else float(row["next_at"])

    async def delivered(self, delivery: Delivery) -> None:
        """Note that it has arrived."""
        await self._end(delivery, DeliveryState.DELIVERED, None)

    async def give_up(self, delivery: Delivery, error: str) -> None:
        """Try it no more."""
        await self._end(delivery, DeliveryState.GIVEN_UP, error)

    async def _end(self, delivery: Delivery, state: DeliveryState, error: str | None) -> None:
        values = {**_key(delivery), "state": state.value, "error": error}
        await self._writer.run(lambda tx: tx.run(_END, {**values, "now": tx.now}))

    async def try_later(self, delivery: Delivery, seconds: float, error: str) -> None:
        """Let it be due again in `seconds`."""
        values = {**_key(delivery), "error": error}
        await self._writer.run(lambda tx: tx.run(_LATER, {**values, "next_at": tx.now + seconds}))

    async def list_deliveries(self, state: DeliveryState | None, limit: int) -> list[Delivery]:
        """Return deliveries, newest first."""
        wanted = {"state": "" if state is None else state.value, "limit": limit}
        return await self._readers.run(
            lambda db: [_delivery(row) for row in db.execute(_LIST, wanted)]
        )

    async def forget(self, ended_before: float, limit: int) -> int:
        """Drop deliveries that ended long ago; return how many."""
        wanted = {"before": ended_before, "limit": limit}
        return len(await self._writer.run(lambda tx: tx.all(_FORGET, wanted)))


def _key(delivery: Delivery) -> dict[str, str]:
    return {"event_id": delivery.event_id, "endpoint": delivery.endpoint}


def _delivery(row: Row) -> Delivery:
    fields = fields_of(row)
    return Delivery(**{**fields, "state": DeliveryState(fields["state"])})
