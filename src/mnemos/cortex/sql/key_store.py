"""API keys on the same writer and readers as everything else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..keys.records import ApiKey
from . import keys
from .readers import Readers
from .writer import Writer


class SqlKeyStore:
    """A KeyStore."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def add_key(self, key: ApiKey, *, sole_admins: bool) -> None:
        """Keep a new key. Raises ConflictError where its name is taken."""
        await self._writer.run(lambda tx: keys.add(tx, key, sole_admins))

    async def list_keys(self) -> list[ApiKey]:
        """Return all keys, oldest first."""
        return await self._readers.run(keys.list_all)

    async def change_key(
        self, key_id: str, changes: Mapping[str, Any], *, sole_admins: bool
    ) -> ApiKey | None:
        """Change fields of a key and return it; None where there is none."""
        return await self._writer.run(lambda tx: keys.change(tx, key_id, changes, sole_admins))

    async def remove_key(self, key_id: str, *, sole_admins: bool) -> bool:
        """Forget a key; return whether there was one."""
        return await self._writer.run(lambda tx: keys.remove(tx, key_id, sole_admins))

    async def tokens_spent(self, job_ids: Collection[str]) -> Mapping[str, int | None]:
        """Return what those jobs used that have ended or are gone; None where it is not known."""
        return await self._readers.run(lambda db: keys.tokens_spent(db, job_ids))
