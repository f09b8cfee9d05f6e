"""The store in a file of this machine."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from ..clock import Clock, steady_clock
from ..notifier import Notifier
from . import reaping
from .database import DATABASE_NAME, DirectoryLock, migrate
from .sqlite_engine import SqliteEngine
from .store import SqlStore


class SqliteStore(SqlStore):
    """The Store of one CORTEX process, in `directory`. An async context manager.

    Entering takes the directory's lock, migrates the schema and gives running attempts one whole
    lease of grace; it raises StartError when that cannot be. Leaving commits what was asked for.
    """

    def __init__(
        self, directory: Path, notifier: Notifier, *, clock: Clock | None = None, **options: Any
    ) -> None:
        self._directory = directory
        self._database = directory / DATABASE_NAME
        super().__init__(SqliteEngine(self._database, clock or steady_clock()), notifier, **options)

    async def _open(self, stack: AsyncExitStack) -> None:
        lock = DirectoryLock(self._directory)
        await asyncio.to_thread(lock.acquire)
        stack.callback(lock.release)
        await asyncio.to_thread(migrate, self._database)

    async def _opened(self) -> None:
        grace = self._lease_seconds
        await self._writer.run(lambda tx: reaping.grant_grace(tx, grace))
