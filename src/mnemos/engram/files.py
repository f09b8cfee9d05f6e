"""Files on this machine: written whole or not at all, read in chunks, hashed on the way.

The classes here block; ENGRAM's callers run them in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from .errors import ArtifactRefusedError, LocalDiskError

CHUNK_BYTES = 8 * 1024 * 1024
"""Read and uploaded at a time: S3 wants parts of at least 5 MiB, and at most 10,000 of them."""

DOWNLOAD_CHUNK_BYTES = 1024 * 1024
"""Asked of obstore at a time; it copies, so that bigger ones cost a worker memory."""

OnBytes = Callable[[int], None]
"""Called on the event loop with the number of bytes that have just gone through."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """What went through: how many bytes, and the SHA-256 of them in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file must turn out to be; `name` is how sentences call it."""

    name: str
    size: int
    sha256: str


class AtomicFile:
    """A file that appears under its name only when `commit()` has made it durable.

    Safe to discard from another thread while a write is under way: that write then fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # object_store hides "…#<digits>" from listings: an unfinished file is never an object.
        self._partial = path.with_name(f"{uuid.uuid4().hex}#0")
        self._lock = threading.Lock()
        self._digest = hashlib.sha256()
        self._size = 0
        self._file: BinaryIO | None = None
        self._over = False

    def write(self, data: bytes) -> None:
        """Append `data`. Raises OSError, also once the file is committed or discarded."""
        with self._lock:
            self._opened().write(data)
            self._digest.update(data)
            self._size += len(data)

    def commit(self) -> Transferred:
        """Make the bytes durable, then give them their name. Raises OSError."""
        with self._lock:
            file = self._opened()
            file.flush()
            os.fsync(file.fileno())
            self._close()
            self._partial.replace(self._path)
        _sync_folder(self._path.parent)
        return Transferred(self._size, self._digest.hexdigest())

    def discard(self) -> None:
        """Leave nothing behind. Idempotent; after `commit()` it does nothing."""
        with self._lock:
            started = self._file is not None
            with contextlib.suppress(OSError):
                self._close()
            if started:
                self._partial.unlink(missing_ok=True)

    def _opened(self) -> BinaryIO:
        if self._over:
            raise OSError(errno.EBADF, "the file is committed or discarded")
        if self._file is None:
            self._file = self._open()
        return self._file

    def _open(self) -> BinaryIO:
        for _ in range(8):
            # A delete may tidy an empty folder away between the two calls: make it again.
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                return self._partial.open("xb")
        return self._partial.open("xb")

    def _close(self) -> None:
        self._over = True
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def write_atomically(
    path: Path, chunks: AsyncIterator[bytes], on_bytes: OnBytes | None = None
) -> Transferred:
    """Write what `chunks` brings to `path`, in threads; it appears whole and durable.

    Raises OSError for the disk, and whatever `chunks` raises. On any failure, and on cancel,
    what was at `path` before is still there and nothing else is left.
    """
    file = AtomicFile(path)
    try:
        async for chunk in chunks:
            await asyncio.to_thread(file.write, chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
        return await asyncio.to_thread(file.commit)
    finally:
        await asyncio.to_thread(file.discard)


class FileReader:
    """Reads a local file in chunks, off the event loop, and knows what it has read so far.

    Where `expected` is given, the last bytes are handed out only if all of them are the expected
    ones: what reads from here to store an object never stores a changed file.

    An async iterator and not a generator: obstore asks it from a task of its own, which may
    still be asking while the upload is cancelled. Closed with `aclose()`, by its owner.
    """

    def __init__(
        self, path: Path, on_bytes: OnBytes | None = None, expected: Expected | None = None
    ) -> None:
        self._path = path
        self._on_bytes = on_bytes
        self._expected = expected
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._over = False
        self._digest = hashlib.sha256()
        self._size = 0

    @property
    def transferred(self) -> Transferred:
        """What has been read; final once the chunks have come to their end."""
        return Transferred(self._size, self._digest.hexdigest())

    def __aiter__(self) -> Self:
        """Return itself: the file is read once."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes.

        Raises LocalDiskError, also once closed: never a short file; and ArtifactRefusedError for
        a file that is not the expected one.
        """
        try:
            chunk = await asyncio.to_thread(self._read)
        except OSError as error:
            raise local_disk_error("read", self._path, error) from error
        if not chunk:
            raise StopAsyncIteration
        if self._on_bytes is not None:
            self._on_bytes(len(chunk))
        return chunk

    async def aclose(self) -> None:
        """Close the file. Idempotent."""
        await asyncio.to_thread(self._close)

    def _read(self) -> bytes:
        with self._lock:
            if self._over:
                raise OSError(errno.EBADF, "it was closed before its end")
            if self._file is None:
                self._file = self._path.open("rb")
            chunk = self._file.read(CHUNK_BYTES)
            self._digest.update(chunk)
            self._size += len(chunk)
            self._check(ended=not chunk)
            return chunk

    def _check(self, *, ended: bool) -> None:
        """Compare at the expected size, not only at the end: small objects are asked no further."""
        expected = self._expected
        if expected is None or (self._size < expected.size and not ended):
            return
        if (self._size, self._digest.hexdigest()) != (expected.size, expected.sha256):
            raise ArtifactRefusedError(f"{expected.name} changed while it was uploaded.")

    def _close(self) -> None:
        with self._lock:
            self._over = True
            if self._file is not None:
                self._file.close()


class Regrouped:
    """Pieces of any size, joined to chunks of CHUNK_BYTES. A class, as FileReader is one."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._held = bytearray()

    def __aiter__(self) -> Self:
        """Return itself: the pieces come once."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk; only the last one is short."""
        while len(self._held) < CHUNK_BYTES:
            try:
                self._held += await anext(self._pieces)
            except StopAsyncIteration:
                break
        if not self._held:
            raise StopAsyncIteration
        chunk = bytes(self._held[:CHUNK_BYTES])
        del self._held[:CHUNK_BYTES]
        return chunk


def local_disk_error(verb: str, path: Path, error: OSError) -> LocalDiskError:
    """Say in one sentence what this machine's disk refused."""
    reason = error.strerror or str(error)
    return LocalDiskError(f"Cannot {verb} {path}: {reason}.", error.errno)
