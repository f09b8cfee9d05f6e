"""Files and batches on the same writer and readers as everything else."""

from __future__ import annotations

from collections.abc import Sequence

from ..batches.records import Batch, BatchState, Fault, Progress, StoredFile
from . import batches, files
from .readers import Readers
from .writer import Writer


class SqlBatchStore:
    """A FileStore and a BatchStore. Its methods raise StorageUnavailableError."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def add_file(self, file: StoredFile) -> None:
        """Note a file, or note it anew under the same id."""
        await self._writer.run(lambda tx: files.add(tx, file))

    async def get_file(self, file_id: str) -> StoredFile | None:
        """Return a file."""
        return await self._readers.run(lambda db: files.get(db, file_id))

    async def list_files(
        self, purpose: str | None, after: str | None, limit: int, *, oldest_first: bool
    ) -> list[StoredFile]:
        """Return files in order, behind the file `after`; none behind one that is unknown."""
        return await self._readers.run(
            lambda db: files.page(db, purpose, after, limit, oldest_first)
        )

    async def is_read(self, file_id: str) -> bool:
        """Say whether an open batch reads a file."""
        return await self._readers.run(lambda db: batches.is_read(db, file_id))

    async def remove_file(self, file_id: str) -> bool:
        """Forget a file; return whether there was one."""
        return await self._writer.run(lambda tx: files.remove(tx, file_id))

    async def add_batch(self, batch: Batch) -> None:
        """Store a new batch."""
        await self._writer.run(lambda tx: batches.add(tx, batch))

    async def get_batch(self, batch_id: str) -> Batch | None:
        """Return a batch."""
        return await self._readers.run(lambda db: batches.get(db, batch_id))

    async def batch_of_file(self, file_id: str) -> Batch | None:
        """Return the batch whose output or errors this file is or will be."""
        return await self._readers.run(lambda db: batches.of_file(db, file_id))

    async def list_batches(self, after: str | None, limit: int) -> list[Batch]:
        """Return batches, newest first, behind the batch `after`."""
        return await self._readers.run(lambda db: batches.page(db, after, limit))

    async def cancel_batch(self, batch_id: str) -> None:
        """Let a batch stop that has not ended; nothing for one that has."""
        await self._writer.run(lambda tx: batches.cancel(tx, batch_id))

    async def own_batch(self, owner: str, seconds: float) -> Batch | None:
        """Give `owner` an open batch that nobody has had for its time, if there is one."""
        return await self._writer.run(lambda tx: batches.own(tx, owner, seconds))

    async def keep_batch(self, batch_id: str, owner: str, seconds: float) -> bool:
        """Extend what `owner` has; return whether it still has it."""
        return await self._writer.run(lambda tx: batches.keep(tx, batch_id, owner, seconds))

    async def leave_batches(self, owner: str) -> None:
        """Let others own what `owner` has."""
        await self._writer.run(lambda tx: batches.leave(tx, owner))

    async def save_batch(
        self, batch_id: str, owner: str, state: BatchState, progress: Progress
    ) -> bool:
        """Write how far a batch is; return False, having changed nothing, if it is not owned."""
        return await self._writer.run(lambda tx: batches.save(tx, batch_id, owner, state, progress))

    async def add_faults(self, batch_id: str, faults: Sequence[Fault]) -> None:
        """Keep what is wrong with lines, each once."""
        await self._writer.run(lambda tx: batches.add_faults(tx, batch_id, faults))

    async def faults(self, batch_id: str, after_line: int, limit: int) -> list[Fault]:
        """Return faults in the order of their lines."""
        return await self._readers.run(lambda db: batches.faults(db, batch_id, after_line, limit))
