"""What CORTEX keeps of files and batches, whatever database it is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..records import JobRecord
from ..webhooks.store import DeliveryStore
from .records import (
    Batch,
    BatchState,
    EndedLines,
    Fault,
    PartVerdict,
    Progress,
    StoredFile,
    Upload,
)


class FileStore(Protocol):
    """The list of files; what they hold lies in ENGRAM."""

    async def add_file(self, file: StoredFile) -> None:
        """Note a file, or note it anew under the same id."""

    async def finish_file(self, file: StoredFile) -> bool:
        """Note that a file is whole; return whether it was still expected."""

    async def get_file(self, file_id: str, now: float) -> StoredFile | None:
        """Return a file that is whole and has not expired, or that an open batch reads."""

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
        """Return such files in order, behind the file `after`; none behind one that is unknown.

        With a `key_id` only that key's.
        """

    async def is_read(self, file_id: str) -> bool:
        """Say whether an open batch reads a file."""

    async def remove_file(self, file_id: str) -> bool:
        """Forget a file; return whether there was one."""

    async def expired_files(self, now: float, limit: int) -> list[str]:
        """Return files whose time is over and that no open batch reads, the oldest first."""


class UploadStore(Protocol):
    """Files that come in parts."""

    async def add_upload(self, upload: Upload) -> None:
        """Store a new upload."""

    async def get_upload(self, upload_id: str) -> Upload | None:
        """Return an upload."""

    async def add_part(
        self, upload_id: str, part_id: str, size_bytes: int, now: float
    ) -> PartVerdict:
        """Note a part that is stored, unless its upload has ended or has too much."""

    async def part_sizes(self, upload_id: str) -> dict[str, int]:
        """Return the sizes of an upload's parts by their ids."""

    async def complete_upload(
        self, upload_id: str, part_ids: Sequence[str], file: StoredFile
    ) -> Upload | None:
        """End a pending upload, its file being whole with it; return the upload as it is then."""

    async def cancel_upload(self, upload_id: str, now: float) -> Upload | None:
        """End an upload that is pending; return it as it is then."""

    async def uploads_to_clean(self, now: float, limit: int) -> list[Upload]:
        """Return uploads whose parts are to be removed, and end those whose time is over."""

    async def cleaned(self, upload_id: str, again_at: float | None) -> None:
        """Note when an upload's parts are to be removed again; None: forget the upload."""


class BatchStore(Protocol):
    """Batches. One driver at a time owns a batch: whoever does not changes nothing."""

    async def add_batch(self, batch: Batch) -> None:
        """Store a new batch."""

    async def get_batch(self, batch_id: str) -> Batch | None:
        """Return a batch."""

    async def batch_of_file(self, file_id: str) -> Batch | None:
        """Return the batch whose output or errors this file is or will be."""

    async def list_batches(
        self, after: str | None, limit: int, key_id: str | None = None
    ) -> list[Batch]:
        """Return batches, newest first, behind the batch `after`; with a `key_id` only its own."""

    async def cancel_batch(self, batch_id: str) -> None:
        """Let a batch stop that has not ended; nothing for one that has."""

    async def own_batch(self, owner: str, seconds: float) -> Batch | None:
        """Give `owner` an open batch that nobody has had for its time, if there is one."""

    async def keep_batch(self, batch_id: str, owner: str, seconds: float) -> bool:
        """Extend what `owner` has; return whether it still has it."""

    async def leave_batches(self, owner: str | None) -> None:
        """Let others own what `owner` has; None: what anybody has."""

    async def save_batch(
        self, batch_id: str, owner: str, state: BatchState, progress: Progress
    ) -> bool:
        """Write how far a batch is; return False, having changed nothing, if it is not owned.

        Its endpoints are told, in the same commit, when it ends by this.
        """

    async def add_faults(self, batch_id: str, faults: Sequence[Fault]) -> None:
        """Keep what is wrong with lines, each once."""

    async def faults(self, batch_id: str, after_line: int, limit: int) -> list[Fault]:
        """Return faults in the order of their lines."""

    async def ended_jobs(
        self, batch_id: str, after: int, limit: int, *, completed: bool
    ) -> list[JobRecord]:
        """Return jobs that completed, or that did not, in finishing order, after a number."""

    async def count_ended(self, batch_id: str, known: EndedLines) -> EndedLines:
        """Count on from what is known; all anew where a job that had ended goes on."""


class Duties(Protocol):
    """What one replica at a time does."""

    async def own(self, name: str, owner: str, seconds: float) -> bool:
        """Give or leave a duty to `owner` for `seconds`, unless another has it."""

    async def leave(self, owner: str) -> None:
        """Let others have what `owner` has."""


class FilesAndBatches(FileStore, UploadStore, BatchStore, Protocol):
    """All of it."""

    @property
    def deliveries(self) -> DeliveryStore:
        """What webhooks are told."""

    @property
    def duties(self) -> Duties:
        """What one replica at a time does."""
