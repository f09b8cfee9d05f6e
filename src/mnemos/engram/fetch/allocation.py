"""Takes a file's space from the disk before its bytes come: a full disk tells at once.

Not by `posix_fallocate`: where the file system cannot, glibc writes zeros instead, and might do so
over bytes that have just arrived.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

_STEP_BYTES = 16 * 1024 * 1024
_UNABLE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})


def allocate(descriptor: int, size: int, stopping: Callable[[], bool]) -> None:
    """Reserve `size` bytes, step by step until `stopping()`. Blocks; raises OSError (ENOSPC)."""
    for start in range(0, size, _STEP_BYTES):
        if stopping():
            return
        failure = _fallocate(descriptor, start, min(_STEP_BYTES, size - start))
        if failure in _UNABLE:
            return
        if failure:
            raise OSError(failure, os.strerror(failure))


def _fallocate(descriptor: int, start: int, length: int) -> int:
    """Return 0, or the errno."""
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while True:
        if call(descriptor, 0, start, length) == 0:
            return 0
        failure = ctypes.get_errno()
        if failure != errno.EINTR:
            return failure
