"""Duties that one replica at a time has."""

from __future__ import annotations

from .transaction import Transaction
from .writer import Writer

_OWN = """
INSERT INTO duties (name, owner, owned_until) VALUES (:name, :owner, :until)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, owned_until = excluded.owned_until
WHERE duties.owner = excluded.owner OR duties.owned_until < :now RETURNING name
"""
_LEAVE = "DELETE FROM duties WHERE owner = :owner"


class SqlDuties:
    """Who has which duty. Its methods raise StorageUnavailableError."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def own(self, name: str, owner: str, seconds: float) -> bool:
        """Give or leave a duty to `owner` for `seconds`, unless another has it."""

        def own(tx: Transaction) -> bool:
            wanted = {"name": name, "owner": owner, "until": tx.now + seconds, "now": tx.now}
            return tx.one(_OWN, wanted) is not None

        return await self._writer.run(own)

    async def leave(self, owner: str) -> None:
        """Let others have what `owner` has."""
        await self._writer.run(lambda tx: tx.run(_LEAVE, {"owner": owner}))
