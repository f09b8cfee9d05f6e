"""Reads files again, to see whether their bytes are still those of their SHA-256."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path

from ..files import CHUNK_BYTES


class Stopped(Exception):
    """The reading was stopped before its end: nobody waits for it any more."""


def sha256_of(path: Path, stop: threading.Event | None = None) -> str:
    """Return a regular file's SHA-256 in hex; a link is not followed.

    Raises OSError, and Stopped once `stop` is set.
    """
    digest = hashlib.sha256()
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{path} is not a regular file")
        while chunk := file.read(CHUNK_BYTES):
            if stop is not None and stop.is_set():
                raise Stopped
            digest.update(chunk)
    return digest.hexdigest()
