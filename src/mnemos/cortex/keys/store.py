"""What CORTEX keeps of API keys, whatever database it is in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from .records import ApiKey


class KeyStore(Protocol):
    """The list of keys. Its methods raise StorageUnavailableError.

    `sole_admins` says that nobody but the keys here may change keys: then no change is made that
    would leave keys, but none with the scope `admin` (ConflictError).
    """

    async def add_key(self, key: ApiKey, *, sole_admins: bool) -> None:
        """Keep a new key. Raises ConflictError where its name is taken."""

    async def list_keys(self) -> list[ApiKey]:
        """Return all keys, oldest first."""

    async def change_key(
        self, key_id: str, changes: Mapping[str, Any], *, sole_admins: bool
    ) -> ApiKey | None:
        """Change fields of a key and return it; None where there is none.

        `disabled` (true or false) notes or forgets the time. Raises ConflictError as add_key does.
        """

    async def remove_key(self, key_id: str, *, sole_admins: bool) -> bool:
        """Forget a key; return whether there was one. Its jobs stay, and stay its own."""

    async def tokens_spent(self, job_ids: Collection[str]) -> Mapping[str, int | None]:
        """Return what those jobs used that have ended or are gone; None where it is not known."""
