"""Bytes from a socket to a file inside the kernel, one copy less than through a buffer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from ..files import local_disk_error
from .target import Part

_UNABLE = frozenset({errno.EINVAL, errno.ENOSYS})


class Pipe:
    """What `splice` needs between the two. Used by one thread; closed by its owner."""

    def __init__(self, size_bytes: int) -> None:
        self._reader, self._writer = os.pipe()
        self.works = True
        """Whether this system and the file's file system can do it."""
        with contextlib.suppress(OSError):  # a smaller one will do
            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, size_bytes)

    def move(self, source: int, part: Part, count: int) -> int:
        """Append up to `count` bytes of the socket `source` to `part`; return how many.

        0 is the connection's end; with `works` turned off it says nothing. Raises OSError for the
        socket and LocalDiskError for the file.
        """
        try:
            taken = os.splice(source, self._writer, count)
        except OSError as error:
            if error.errno not in _UNABLE:
                raise
            self.works = False
            return 0
        self._pour(part, taken)
        return taken

    def close(self) -> None:
        """Close both ends."""
        os.close(self._reader)
        os.close(self._writer)

    def _pour(self, part: Part, count: int) -> None:
        while count:
            try:
                moved = part.target.splice_from(self._reader, part, count)
            except OSError as error:
                if error.errno not in _UNABLE:
                    raise local_disk_error("write", part.target.path, error) from error
                self.works = False
                data = os.read(self._reader, count)
                part.write(memoryview(data))
                moved = len(data)
            else:
                part.advance(moved)
            count -= moved
