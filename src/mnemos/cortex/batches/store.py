"""What CORTEX keeps of files and batches, whatever database it is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .records import Batch, BatchState, Fault, Progress, StoredFile


class FileStore(Protocol):
    """The list of files; what they hold lies in ENGRAM."""

    async def add_file(self, file: StoredFile) -> None:
        """Note a file, or note it anew under the same id."""

    async def get_file(self, file_id: str) -> StoredFile | None:
        """Return a file."""

    async def list_files(
        self, purpose: str | None, after: str | None, limit: int, *, oldest_first: bool
    ) -> list[StoredFile]:
        """Return files in order, behind the file `after`; none behind one that is unknown."""

    async def is_read(self, file_id: str) -> bool:
        """Say whether an open batch reads a file."""

    async def remove_file(self, file_id: str) -> bool:
        """Forget a file; return whether there was one."""


class BatchStore(Protocol):
    """Batches. One driver at a time owns a batch: whoever does not changes nothing."""

    async def add_batch(self, batch: Batch) -> None:
        """Store a new batch."""

    async def get_batch(self, batch_id: str) -> Batch | None:
        """Return a batch."""

    async def batch_of_file(self, file_id: str) -> Batch | None:
        """Return the batch whose output or errors this file is or will be."""

    async def list_batches(self, after: str | None, limit: int) -> list[Batch]:
        """Return batches, newest first, behind the batch `after`."""

    async def cancel_batch(self, batch_id: str) -> None:
        """Let a batch stop that has not ended; nothing for one that has."""

    async def own_batch(self, owner: str, seconds: float) -> Batch | None:
        """Give `owner` an open batch that nobody has had for its time, if there is one."""

    async def keep_batch(self, batch_id: str, owner: str, seconds: float) -> bool:
        """Extend what `owner` has; return whether it still has it."""

    async def leave_batches(self, owner: str) -> None:
        """Let others own what `owner` has."""

    async def save_batch(
        self, batch_id: str, owner: str, state: BatchState, progress: Progress
    ) -> bool:
        """Write how far a batch is; return False, having changed nothing, if it is not owned."""

    async def add_faults(self, batch_id: str, faults: Sequence[Fault]) -> None:
        """Keep what is wrong with lines, each once."""

    async def faults(self, batch_id: str, after_line: int, limit: int) -> list[Fault]:
        """Return faults in the order of their lines."""


class FilesAndBatches(FileStore, BatchStore, Protocol):
    """Both."""
