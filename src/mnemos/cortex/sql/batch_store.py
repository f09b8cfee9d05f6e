"""Files and batches on the same writer and readers as everything else."""

from __future__ import annotations

from collections.abc import Sequence

from ..batches.records import (
    Batch,
    BatchState,
    EndedLines,
    Fault,
    PartVerdict,
    Progress,
    StoredFile,
    Upload,
)
from ..records import JobRecord
from . import batches, files, uploads
from .deliveries import SqlDeliveries
from .duties import SqlDuties
from .readers import Readers
from .writer import Writer


class SqlBatchStore:
    """FilesAndBatches. Its methods raise StorageUnavailableError."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers
        self.deliveries = SqlDeliveries(writer, readers)
        self.duties = SqlDuties(writer)

    async def add_file(self, file: StoredFile) -> None:
        """Note a file, or note it anew under the same id."""
        await self._writer.run(lambda tx: files.add(tx, file))

    async def finish_file(self, file: StoredFile) -> bool:
        """Note that a file is whole; return whether it was still expected."""
        return await self._writer.run(lambda tx: files.finish(tx, file))

    async def get_file(self, file_id: str, now: float) -> StoredFile | None:
        """Return a file that is whole and has not expired, or that an open batch reads."""
        return await self._readers.run(lambda db: files.get(db, file_id, now))

    async def list_files(
        self,
        purpose: str | None,
        after: str | None,
        limit: int,
        *,
        oldest_first: bool,
        now: float,
        key_id: str | None = None,
    ) -> list[StoredFile]:
        """Return such files in order, behind the file `after`; none behind one that is unknown."""
        return await self._readers.run(
            lambda db: files.page(
                db, purpose, after, limit, oldest_first=oldest_first, now=now, key_id=key_id
            )
        )

    async def is_read(self, file_id: str) -> bool:
        """Say whether an open batch reads a file."""
        return await self._readers.run(lambda db: batches.is_read(db, file_id))

    async def remove_file(self, file_id: str) -> bool:
        """Forget a file; return whether there was one."""
        return await self._writer.run(lambda tx: files.remove(tx, file_id))

    async def expired_files(self, now: float, limit: int) -> list[str]:
        """Return files whose time is over and that no open batch reads, the oldest first."""
        return await self._readers.run(lambda db: files.expired(db, now, limit))

    async def add_upload(self, upload: Upload) -> None:
        """Store a new upload."""
        await self._writer.run(lambda tx: uploads.add(tx, upload))

    async def get_upload(self, upload_id: str) -> Upload | None:
        """Return an upload."""
        return await self._readers.run(lambda db: uploads.get(db, upload_id))

    async def add_part(
        self, upload_id: str, part_id: str, size_bytes: int, now: float
    ) -> PartVerdict:
        """Note a part that is stored, unless its upload has ended or has too much."""
        return await self._writer.run(
            lambda tx: uploads.add_part(tx, upload_id, part_id, size_bytes, now)
        )

    async def part_sizes(self, upload_id: str) -> dict[str, int]:
        """Return the sizes of an upload's parts by their ids."""
        return await self._readers.run(lambda db: uploads.part_sizes(db, upload_id))

    async def complete_upload(
        self, upload_id: str, part_ids: Sequence[str], file: StoredFile
    ) -> Upload | None:
        """End a pending upload, its file being whole with it; return the upload as it is then."""
        return await self._writer.run(lambda tx: uploads.complete(tx, upload_id, part_ids, file))

    async def cancel_upload(self, upload_id: str, now: float) -> Upload | None:
        """End an upload that is pending; return it as it is then."""
        return await self._writer.run(lambda tx: uploads.cancel(tx, upload_id, now))

    async def uploads_to_clean(self, now: float, limit: int) -> list[Upload]:
        """Return uploads whose parts are to be removed, and end those whose time is over."""
        return await self._writer.run(lambda tx: uploads.to_clean(tx, now, limit))

    async def cleaned(self, upload_id: str, again_at: float | None) -> None:
        """Note when an upload's parts are to be removed again; None: forget the upload."""
        await self._writer.run(lambda tx: uploads.cleaned(tx, upload_id, again_at))

    async def add_batch(self, batch: Batch) -> None:
        """Store a new batch."""
        await self._writer.run(lambda tx: batches.add(tx, batch))

    async def get_batch(self, batch_id: str) -> Batch | None:
        """Return a batch."""
        return await self._readers.run(lambda db: batches.get(db, batch_id))

    async def batch_of_file(self, file_id: str) -> Batch | None:
        """Return the batch whose output or errors this file is or will be."""
        return await self._readers.run(lambda db: batches.of_file(db, file_id))

    async def list_batches(
        self, after: str | None, limit: int, key_id: str | None = None
    ) -> list[Batch]:
        """Return batches, newest first, behind the batch `after`; with a `key_id` only its own."""
        return await self._readers.run(lambda db: batches.page(db, after, limit, key_id))

    async def cancel_batch(self, batch_id: str) -> None:
        """Let a batch stop that has not ended; nothing for one that has."""
        await self._writer.run(lambda tx: batches.cancel(tx, batch_id))

    async def own_batch(self, owner: str, seconds: float) -> Batch | None:
        """Give `owner` an open batch that nobody has had for its time, if there is one."""
        return await self._writer.run(lambda tx: batches.own(tx, owner, seconds))

    async def keep_batch(self, batch_id: str, owner: str, seconds: float) -> bool:
        """Extend what `owner` has; return whether it still has it."""
        return await self._writer.run(lambda tx: batches.keep(tx, batch_id, owner, seconds))

    async def leave_batches(self, owner: str | None) -> None:
        """Let others own what `owner` has; None: what anybody has."""
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

    async def ended_jobs(
        self, batch_id: str, after: int, limit: int, *, completed: bool
    ) -> list[JobRecord]:
        """Return jobs that completed, or that did not, in finishing order, after a number."""
        return await self._readers.run(
            lambda db: batches.ended_jobs(db, batch_id, after, limit, completed=completed)
        )

    async def count_ended(self, batch_id: str, known: EndedLines) -> EndedLines:
        """Count on from what is known; all anew where a job that had ended goes on."""
        return await self._readers.run(lambda db: batches.count_ended(db, batch_id, known))
