"""One wanted file on this machine's disk, from its first byte until it is proven and durable."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import DamagedObjectError
from ..files import OnBytes, local_disk_error
from . import journal
from .allocation import allocate
from .journal import Journal
from .limits import Limits
from .wanted import WantedFile, journal_path

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Part:
    """A range of a file that one thread at a time fetches. `done` bytes of it are written."""

    __slots__ = ("digest", "done", "index", "length", "start", "target")

    def __init__(self, target: Target, index: int, start: int, length: int) -> None:
        self.target = target
        self.index = index
        self.start = start
        self.length = length
        self.done = 0
        self.digest = hashlib.sha256() if length == target.wanted.size else None
        """Of what is written, where the part is the whole file: hashed while it is hot."""

    @property
    def position(self) -> int:
        """Where in the file the next byte goes."""
        return self.start + self.done

    @property
    def left(self) -> int:
        """How many bytes are missing."""
        return self.length - self.done

    @property
    def is_file(self) -> bool:
        """Whether the part is all of its file."""
        return self.length == self.target.wanted.size

    def write(self, data: memoryview) -> None:
        """Append `data`. Raises LocalDiskError."""
        self.target.write(self, data)
        if self.digest is not None:
            self.digest.update(data)
        self.advance(len(data))

    def advance(self, count: int) -> None:
        """Say that `count` more bytes are in the file."""
        self.done += count
        self.target.note(self, count)

    def rewind(self) -> None:
        """Start again from the part's first byte."""
        self.done = 0
        self.digest = None if self.digest is None else hashlib.sha256()


class Target:
    """A wanted file and what has been written of it. Blocks; for threads."""

    def __init__(self, wanted: WantedFile, limits: Limits, on_bytes: OnBytes | None) -> None:
        self.wanted = wanted
        self.parts: list[Part] = []
        self.generation = 0
        """Grows when all parts are thrown away for new ones."""
        self.resumed = False
        """Whether some of it was there before: its bytes are less to be trusted."""
        self.identity: object = None
        """The object's ETag, or what the file system says of it, as first met."""
        self._limits = limits
        self._on_bytes = on_bytes
        self._part_bytes = limits.part_bytes
        self.told_bytes = 0
        """How many of its bytes are known to be here, each counted once."""
        self._unsynced = 0
        self._descriptor = -1
        self._has_journal = False
        self._journal: Journal | None = None
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """Where it is written."""
        return self.wanted.path

    @property
    def is_hashed_by_writer(self) -> bool:
        """Whether the thread that fetches it hashes it too."""
        return len(self.parts) == 1 and self.parts[0].digest is not None

    @property
    def is_complete(self) -> bool:
        """Whether every byte is written."""
        return all(part.left == 0 for part in self.parts)

    def prefix_from(self, position: int) -> int:
        """How far on from `position`, where a part begins, whole parts are written."""
        end = position
        for part in self.parts[position // self._part_bytes :]:
            if part.left:
                break
            end += part.length
        return end

    def prepare(self) -> None:
        """Find out what is there already, and make the file if it is worth a journal.

        Raises LocalDiskError.
        """
        self._cut(self._limits.part_bytes)
        lengths = [part.length for part in self.parts]
        with self._disk("read"):
            present = os.lstat(self.path).st_size if os.path.lexists(self.path) else -1
            counts = journal.read_counts(journal_path(self.path), self._header(), lengths)
        if present == self.wanted.size > 0:
            # A file of the right size without a journal came to its end: its hash will tell.
            self._take_up(lengths if counts is None else counts)
            self._has_journal = counts is not None
            if counts is not None:
                self._tell(sum(counts))
        elif self._is_large:
            with self._disk("write"):
                self._make()

    def missing_bytes(self) -> int:
        """How much space the disk must still give. Raises LocalDiskError."""
        with self._disk("read"):
            if not self.path.is_file():
                return self.wanted.size
            status = self.path.stat()
            if status.st_size == self.wanted.size and not journal_path(self.path).exists():
                return 0
            return max(0, self.wanted.size - status.st_blocks * 512)

    def allocate(self, stopping: Callable[[], bool]) -> None:
        """Reserve the file's space; small files get theirs as they come. Raises LocalDiskError."""
        if self.is_complete or not self._is_large:
            return
        with self._disk("write"):
            descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                allocate(descriptor, self.wanted.size, stopping)
            finally:
                os.close(descriptor)

    def open(self) -> None:
        """Have the file open, and its journal. Idempotent. Raises LocalDiskError."""
        with self._lock, self._disk("write"):
            if self._descriptor >= 0:
                return
            is_fresh = not (self._is_large or self.resumed)
            flags = _FLAGS | os.O_TRUNC if is_fresh else _FLAGS
            self._descriptor = os.open(self.path, flags, 0o644)
            if self._has_journal:
                self._journal = Journal.open(journal_path(self.path))

    def write(self, part: Part, data: memoryview) -> None:
        """Write `data` where the part goes on. Raises LocalDiskError."""
        with self._disk("write"):
            position = part.position
            while data:
                written = os.pwrite(self._descriptor, data, position)
                data = data[written:]
                position += written

    def copy_from(self, source: int, part: Part, count: int) -> int:
        """Let the kernel copy up to `count` bytes of the open file `source`. Raises OSError."""
        return os.copy_file_range(source, self._descriptor, count, part.position, part.position)

    def splice_from(self, pipe: int, part: Part, count: int) -> int:
        """Move up to `count` bytes from a pipe to where the part goes on. Raises OSError."""
        return os.splice(pipe, self._descriptor, count, offset_dst=part.position)

    def note(self, part: Part, count: int) -> None:
        """Put down that the part has grown by `count`. Raises LocalDiskError."""
        with self._lock, self._disk("write"):
            self._unsynced += count
            if self._journal is not None:
                self._journal.write(part.index, part.done)
        self._tell(count)

    def read(self, buffer: memoryview, position: int) -> int:
        """Read what is written back. Raises LocalDiskError."""
        with self._disk("read"):
            count = os.preadv(self._descriptor, [buffer], position)
            if count == 0:
                raise OSError(errno.EIO, "somebody cut it short")
            return count

    def wants_sync(self) -> bool:
        """Whether the disk should begin on what is written."""
        return self._unsynced >= self._limits.sync_bytes

    def sync(self) -> None:
        """Have what is written on the disk. Raises LocalDiskError."""
        with self._disk("write"), self._duplicate() as descriptor:
            self._unsynced = 0
            if descriptor is not None:
                os.fdatasync(descriptor)

    def restart(self) -> None:
        """Forget all that is written, for a fetch from zero. Raises LocalDiskError."""
        self._start_anew(self._limits.part_bytes, has_journal=self._is_large)

    def take_whole(self) -> Part:
        """Make one part of all: the storage knows no ranges. Raises LocalDiskError."""
        self._start_anew(max(1, self.wanted.size), has_journal=False)
        return self.parts[0]

    def settle(self, sha256: str) -> bool:
        """Prove the complete file and have it on the disk; False says to fetch it from zero.

        Raises DamagedObjectError, having removed the file, and LocalDiskError.
        """
        if sha256 == self.wanted.sha256:
            with self._disk("write"):
                os.fsync(self._descriptor)
                self._forget_journal()
            self._tell(self.wanted.size)
            self.close()
            return True
        if self.resumed:
            return False
        self.discard()
        raise DamagedObjectError(
            f"{self.wanted.key} is damaged: its sha256 is {sha256}, not {self.wanted.sha256}."
        )

    def discard(self) -> None:
        """Remove the file and its journal. Raises LocalDiskError."""
        with self._disk("remove"):
            self._forget_journal()
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close what is open; a file that is not complete stays for the next fetch. Idempotent."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)
            if self._journal is not None:
                self._journal.close()
                self._journal = None

    def _start_anew(self, part_bytes: int, has_journal: bool) -> None:
        with self._lock, self._disk("write"):
            self._forget_journal()
            self._cut(part_bytes)
            for part in self.parts:
                part.digest = None  # whoever follows the file hashes on
            self.resumed = False
            self.generation += 1
            if has_journal:
                self._journal = self._new_journal()
            os.ftruncate(self._descriptor, self.wanted.size)

    def _make(self) -> None:
        """The journal first: without one the file would pass for complete."""
        self._new_journal().close()
        self._has_journal = True
        descriptor = os.open(self.path, _FLAGS | os.O_TRUNC, 0o644)
        try:
            os.ftruncate(descriptor, self.wanted.size)
        finally:
            os.close(descriptor)

    def _take_up(self, counts: Sequence[int]) -> None:
        for part, count in zip(self.parts, counts, strict=True):
            part.done = count
            part.digest = None if count else part.digest
        self.resumed = any(counts)

    def _new_journal(self) -> Journal:
        return Journal.create(journal_path(self.path), self._header(), len(self.parts))

    @property
    def _is_large(self) -> bool:
        return self.wanted.size > self._limits.buffer_bytes

    def _cut(self, part_bytes: int) -> None:
        size = self.wanted.size
        self._part_bytes = part_bytes
        self.parts = [
            Part(self, index, start, min(part_bytes, size - start))
            for index, start in enumerate(range(0, max(1, size), part_bytes))
        ]

    def _header(self) -> bytes:
        return journal.header(self.wanted.sha256, self.wanted.size, self._limits.part_bytes)

    def _forget_journal(self) -> None:
        kept, self._journal = self._journal, None
        if kept is not None:
            kept.remove()
        else:
            journal_path(self.path).unlink(missing_ok=True)

    def _tell(self, count: int) -> None:
        """Tell of each byte once, whatever is fetched again."""
        with self._lock:
            fresh = min(count, self.wanted.size - self.told_bytes)
            self.told_bytes += fresh
        if fresh and self._on_bytes is not None:
            self._on_bytes(fresh)

    @contextlib.contextmanager
    def _duplicate(self) -> Iterator[int | None]:
        """A descriptor that nobody else closes; None when the file is closed."""
        with self._lock:
            descriptor = os.dup(self._descriptor) if self._descriptor >= 0 else None
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    @contextlib.contextmanager
    def _disk(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise local_disk_error(verb, self.path, error) from error
