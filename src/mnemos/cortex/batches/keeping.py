"""Files that are kept whole or not at all, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

import structlog

from mnemos.engram.errors import EngramError

from ..errors import CortexError, StorageUnavailableError
from .objects import FileObjects
from .records import StoredFile
from .store import FileStore

WRITE_SECONDS = 900.0
"""So long a file may be written; what is not whole is swept away some time after that."""
UNFINISHED_SECONDS = 1200.0
DROP_SECONDS = 10.0

_log = structlog.get_logger(__name__)


class FileKeeper:
    """Writes files. The row comes first and is whole last: what a crash leaves behind is swept."""

    def __init__(
        self, store: FileStore, files: FileObjects, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._files = files
        self._now = now

    async def keep(self, file: StoredFile, pieces: AsyncGenerator[bytes, None]) -> StoredFile:
        """Store a file with its true size. Raises EngramError, CortexError, having kept nothing."""
        try:
            written = await self.write(file, pieces)
            if not await self._store.finish_file(written):
                raise StorageUnavailableError("Writing the file took too long.")
        except BaseException:
            await self.drop(file.file_id)
            raise
        return written

    async def write(self, file: StoredFile, pieces: AsyncGenerator[bytes, None]) -> StoredFile:
        """Write a file that nobody is shown until the store has finished it.

        Where it is not, `drop` is to be called. Raises EngramError, CortexError.
        """
        until = self._now() + UNFINISHED_SECONDS
        await self._store.add_file(replace(file, whole=False, expires_at=until))
        size = 0

        async def counted() -> AsyncGenerator[bytes, None]:
            nonlocal size
            async for piece in pieces:
                size += len(piece)
                yield piece

        try:
            async with asyncio.timeout(WRITE_SECONDS), aclosing(pieces):
                await self._files.write(file.file_id, counted())
        except TimeoutError as error:
            raise StorageUnavailableError("Writing the file took too long.") from error
        return replace(file, size_bytes=size)

    async def drop(self, file_id: str) -> None:
        """Take away what was written; where that cannot be now, it is swept later."""
        try:
            async with asyncio.timeout(DROP_SECONDS):
                await self._files.remove(file_id)
                await self._store.remove_file(file_id)
        except (EngramError, CortexError, TimeoutError) as error:
            _log.warning("file.stays_for_now", file_id=file_id, error=str(error))
