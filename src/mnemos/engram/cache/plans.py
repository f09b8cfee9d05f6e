"""What is being loaded by whom: a plan per load, locked for as long as its process lives.

All but the progress is read and written under the cache's lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ..files import local_disk_error
from ..manifest import ManifestFile
from .layout import PLAN_SUFFIX, Layout, entries_of
from .locks import has_locks, this_machine, try_lock

_HEAD_BYTES = 4
"""Before the plan: how much has come, as three digits and a line's end."""
_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load wants, and which of it this load itself brings."""

    load: str
    family: str
    version: str
    files: tuple[tuple[str, int], ...]
    """SHA-256 and size of each file that the model is made of."""
    claims: frozenset[str] = frozenset()
    """The SHA-256 of those that this load brings: nobody else does meanwhile."""

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each blob that is wanted."""
        return dict(self.files)


class OpenPlan:
    """A plan of this process, locked. `tell` and `close` may be called from any thread."""

    def __init__(
        self, layout: Layout, family: str, version: str, files: Sequence[ManifestFile]
    ) -> None:
        self._layout = layout
        wanted = tuple({file.sha256: (file.sha256, file.size) for file in files}.values())
        name = f"{this_machine()}-{uuid4().hex[:16]}"
        self.plan = Plan(name, family, version, wanted)
        self._path = layout.staging / f"{name}{PLAN_SUFFIX}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._handle = os.open(self._path, flags, 0o644)
        except OSError as error:
            raise local_disk_error("write the model cache at", layout.root, error) from error
        try_lock(self._handle)  # the file is new, and who looks at it holds the cache's lock
        self._ending = threading.Lock()
        self._write()

    @property
    def folder(self) -> Path:
        """Where the model is put together."""
        return self._layout.staging / self.plan.load

    def claim(self, claims: frozenset[str]) -> None:
        """Say which files this load brings. Raises LocalDiskError."""
        plan = self.plan
        self.plan = Plan(plan.load, plan.family, plan.version, plan.files, claims)
        self._write()

    def tell(self, percent: int) -> None:
        """Say how much has come, for those who wait. Never fails."""
        with self._ending, contextlib.suppress(OSError):
            if self._handle >= 0:
                os.pwrite(self._handle, _head(percent), 0)

    def close(self) -> None:
        """End the plan; nothing of it stays. May be called twice."""
        with self._ending:
            handle, self._handle = self._handle, -1
        if handle >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            os.close(handle)

    def _write(self) -> None:
        plan = self.plan
        told = {
            "family": plan.family,
            "version": plan.version,
            "files": plan.files,
            "claims": sorted(plan.claims),
        }
        try:
            content = json.dumps(told).encode()
            os.pwrite(self._handle, _head(0) + content, 0)
            os.ftruncate(self._handle, _HEAD_BYTES + len(content))
        except OSError as error:
            self.close()
            raise local_disk_error("write", self._path, error) from error


def live_plans(layout: Layout) -> list[Plan]:
    """Return the plans whose processes live; where there are no locks, all there are."""
    found: list[Plan] = []
    if not layout.staging.is_dir():
        return found
    locks = has_locks(layout.staging)
    for path in _plan_files(layout):
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if not locks or not try_lock(handle, shared=True):
                    found.append(_read(path, handle))
            finally:
                os.close(handle)
    return found


def percent_of(layout: Layout, plan: Plan) -> int:
    """Return how much of a load has come, as far as it has said so."""
    try:
        with (layout.staging / f"{plan.load}{PLAN_SUFFIX}").open("rb") as file:
            return int(file.read(_HEAD_BYTES))
    except (OSError, ValueError):
        return 0


def load_of(path: Path) -> str:
    """Return the load that something in the staging folder belongs to."""
    return path.name.removesuffix(PLAN_SUFFIX)


def _plan_files(layout: Layout) -> list[Path]:
    return [path for path in entries_of(layout.staging) if path.name.endswith(PLAN_SUFFIX)]


def _read(path: Path, handle: int) -> Plan:
    """A plan that cannot be read was just begun: it claims nothing yet."""
    try:
        told = json.loads(os.pread(handle, _MOST_BYTES, _HEAD_BYTES))
        files = tuple((sha256, size) for sha256, size in told["files"])
        claims = frozenset(told["claims"])
        return Plan(load_of(path), told["family"], told["version"], files, claims)
    except (ValueError, KeyError, TypeError):
        return Plan(load_of(path), "", "", ())


def _head(percent: int) -> bytes:
    return f"{max(0, min(100, percent)):3d}\n".encode()
