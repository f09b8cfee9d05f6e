"""Locks among the processes of a machine; each ends with the process that holds it.

They order work and spare downloads. No content depends on them: files are checked before they
get their names, and names are given by renames.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from ..errors import LocalDiskError
from ..files import local_disk_error

WAIT_SECONDS = 300.0
_POLL_SECONDS = 0.005
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_NETWORK_KINDS = (
    "nfs",
    "cifs",
    "smb",
    "lustre",
    "gpfs",
    "ceph",
    "beegfs",
    "glusterfs",
    "afs",
    "9p",
)


def try_lock(handle: int, *, shared: bool = False) -> bool:
    """Lock an open file if that is possible at once; closing it unlocks.

    True also where the file system has no locks. Raises OSError.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


@contextlib.contextmanager
def locked(path: Path, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the lock file at `path`, alone among all threads and processes. Blocks.

    Raises LocalDiskError if another process does not let go of it in time.
    """
    handle = _lock(path, time.monotonic() + wait_seconds)
    if handle is None:
        raise LocalDiskError(
            f"Another process has held {path} for {wait_seconds:g} s: is it stopped?"
        )
    try:
        yield
    finally:
        os.close(handle)


def _lock(path: Path, deadline: float) -> int | None:
    """Return the file, open and locked; None if that takes too long."""
    while time.monotonic() <= deadline:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise local_disk_error("lock", path, error) from error
        if try_lock(handle) and _is_at(path, handle):
            return handle
        os.close(handle)
        time.sleep(_POLL_SECONDS)
    return None


def _is_at(path: Path, handle: int) -> bool:
    """Whether the file was not removed meanwhile: others would lock a new one."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except OSError:
        return False


def has_locks(folder: Path) -> bool:
    """Whether files in `folder` can be locked at all."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno not in _NO_LOCKS
    finally:
        os.close(handle)
    return True


def is_on_network(folder: Path) -> bool:
    """Whether another machine may see the folder without seeing this one's locks."""
    try:
        device = folder.stat().st_dev
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        fields = line.split()
        if fields[2] == number:
            kind = fields[fields.index("-") + 1]
            return kind.removeprefix("fuse.").startswith(_NETWORK_KINDS)
    return False


def this_machine() -> str:
    """Return a short name that tells this machine from others."""
    return sha256(socket.gethostname().encode()).hexdigest()[:8]
