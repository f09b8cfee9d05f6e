"""Whose a secret is, answered from memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from mnemos.bearer import hash_of, same

from ..errors import CortexError
from ..notifier import KEYS_TOPIC, Notifier
from ..principal import ADMIN, Principal
from .records import ApiKey
from .store import KeyStore

REFRESH_SECONDS = 3.0
"""How often keys are read again; a change is told at once, unless the word of it is lost."""
UNKNOWN_SECONDS = 0.5
"""For a secret that is not known keys are read again, but not more often than this."""
MAX_AGE_SECONDS = 30.0
"""Keys that could not be read again for so long admit nobody."""

OPERATOR = Principal("", "CORTEX_ADMIN_KEY", frozenset({ADMIN}))
"""Who sends the key of CORTEX's settings."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AuthPolicy:
    """When CORTEX asks for keys: `always`, never (`off`), or else once there is one."""

    always: bool = False
    off: bool = False
    admin_hash: str | None = field(default=None, repr=False)
    """Of the key in the settings, which may do everything."""


class KeyDirectory:
    """All keys, kept in memory and read again every few seconds and whenever one has changed.

    `run()` is a task of the owner's group. `on_change` is told of all keys each time they are
    read.
    """

    def __init__(
        self,
        store: KeyStore,
        notifier: Notifier,
        policy: AuthPolicy,
        on_change: Callable[[Mapping[str, ApiKey]], None] = lambda keys: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._notifier = notifier
        self._policy = policy
        self._on_change = on_change
        self._clock = clock
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._by_hash: dict[str, ApiKey] = {}
        self._by_id: dict[str, ApiKey] = {}

    @property
    def required(self) -> bool:
        """Whether requests need a key now."""
        return not self._policy.off and (self._policy.always or bool(self._by_id))

    @property
    def exist(self) -> bool:
        """Whether there are keys, disabled ones too."""
        return bool(self._by_id)

    @property
    def sole_admins(self) -> bool:
        """Whether nobody but the keys that are kept may change keys."""
        return self._policy.admin_hash is None

    def get(self, key_id: str) -> ApiKey | None:
        """Return a key as it was when keys were last read."""
        return self._by_id.get(key_id)

    async def find(self, secret: str) -> ApiKey | Principal | None:
        """Say whose a secret is: a key's, disabled or not, or the operator's.

        One that is known takes no query. Raises StorageUnavailableError where keys could not be
        read for long.
        """
        digest = hash_of(secret)
        if self._policy.admin_hash is not None and same(digest, self._policy.admin_hash):
            return OPERATOR
        if self._clock() - self._read_at > MAX_AGE_SECONDS:
            await self.read_since(self._clock())
        if digest not in self._by_hash:
            await self.read_since(self._clock() - UNKNOWN_SECONDS)
        return self._by_hash.get(digest)

    async def read_since(self, moment: float) -> None:
        """Return once keys were read at `moment` or later, reading them if need be."""
        if self._read_at >= moment:
            return
        async with self._reading:
            if self._read_at < moment:
                await self.read()

    async def read(self) -> None:
        """Read all keys now. Raises StorageUnavailableError."""
        began = self._clock()
        keys = await self.store.list_keys()
        self._by_hash = {key.secret_hash: key for key in keys}
        self._by_id = {key.key_id: key for key in keys}
        self._read_at = began
        self._on_change(self._by_id)

    async def run(self) -> None:
        """Keep what is known young, until cancelled."""
        with self._notifier.subscribe(KEYS_TOPIC) as ear:
            while True:
                ear.clear()
                try:
                    await self.read_since(self._clock())
                except CortexError as error:
                    _log.warning("keys.not_read", error=error.message)
                await ear.wait(REFRESH_SECONDS)
