"""A folder of this machine as a source: the kernel copies, or shares the blocks where it can."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ..errors import LocalDiskError
from ..failures import object_not_found, translate
from ..files import local_disk_error
from .limits import Limits
from .source import Interrupted, changed, check_identity, check_size
from .target import Part, Target

_STEP_BYTES = 4 * 1024 * 1024
_UNABLE = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})
_OF_THE_COPY = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


class FolderSource:
    """A bucket that is a folder."""

    def __init__(self, folder: Path, bucket: str, where: str, limits: Limits) -> None:
        self.where = where
        self.bucket = bucket
        self.limits = limits
        self._folder = folder

    def link(self) -> FolderLink:
        """Return a new link."""
        return FolderLink(self)

    def open(self, target: Target) -> int:
        """Open a target's object and check that it is the right one still; return a descriptor.

        Raises EngramError.
        """
        key = target.wanted.key
        try:
            # Without O_NONBLOCK a FIFO of that name would hold the thread.
            descriptor = os.open(self._folder / key, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise translate(error, self.where, self.bucket, key) from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise object_not_found(self.bucket, key)
            check_size(target, status.st_size)
            identity = (status.st_dev, status.st_ino, status.st_mtime_ns)
            check_identity(target, identity)
            target.identity = identity
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


class FolderLink:
    """Copies parts of one file after another."""

    def __init__(self, source: FolderSource) -> None:
        self._source = source
        self._aborted = False
        self._copies = True
        self._buffer = memoryview(b"")

    def fetch(self, part: Part) -> None:
        """Copy what the part lacks. Raises EngramError, and Interrupted once aborted."""
        descriptor = self._source.open(part.target)
        try:
            while part.left:
                if self._aborted:
                    raise Interrupted("stopped")
                self._step(descriptor, part)
        finally:
            os.close(descriptor)

    def abort(self) -> None:
        """End a fetch after the step that is under way."""
        self._aborted = True

    def close(self) -> None:
        """Nothing is held between parts."""

    def _step(self, descriptor: int, part: Part) -> None:
        # What the writer hashes must come through this process.
        if not self._copies or part.digest is not None:
            self._read_and_write(descriptor, part)
            return
        try:
            count = part.target.copy_from(descriptor, part, min(part.left, _STEP_BYTES))
        except OSError as error:
            if error.errno not in _UNABLE:
                raise self._failed(error, part.target) from error
            self._copies = False
            return
        if count == 0:
            raise changed(part.target)
        part.advance(count)

    def _read_and_write(self, descriptor: int, part: Part) -> None:
        if not self._buffer:
            self._buffer = memoryview(bytearray(self._source.limits.buffer_bytes))
        try:
            count = os.preadv(descriptor, [self._buffer[: part.left]], part.position)
        except OSError as error:
            raise translate(
                error, self._source.where, self._source.bucket, part.target.wanted.key
            ) from error
        if count == 0:
            raise changed(part.target)
        part.write(self._buffer[:count])

    def _failed(self, error: OSError, target: Target) -> Exception:
        """Say which of the two sides of a copy refused."""
        if error.errno in _OF_THE_COPY:
            local: LocalDiskError = local_disk_error("write", target.path, error)
            return local
        return translate(error, self._source.where, self._source.bucket, target.wanted.key)
