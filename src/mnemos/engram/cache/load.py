"""One load of a model: what it brings itself, and how that becomes the model's folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ..errors import LocalDiskError
from ..fetch.wanted import journal_path
from ..files import local_disk_error
from ..manifest import ManifestFile
from .eviction import Budget, Removal, make_room
from .hashing import Stopped, sha256_of
from .holding import Hold, hold
from .inventory import take_inventory
from .layout import Layout, is_file, is_link, sync_folder
from .linking import adopt_file, install, share_file
from .marker import Marker, read_marker
from .plans import OpenPlan, live_plans, percent_of
from .removing import empty_trash, remove_blob, remove_partial, remove_tree

Locked = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a load shall bring now: each file to its path."""

    files: tuple[tuple[ManifestFile, Path], ...]
    waits: bool
    """Whether another load brings some of what is lacking."""
    percent: int
    """How far that one is."""
    removed: Removal


class Load:
    """The one load of a model on this machine, from `begin` to `close`. All methods block.

    Usage: `salvage`, then `claim`, fetch and `adopt` until nothing is lacking, then `finish`.
    `close` in any case: what has come stays for the next load unless it is told to go.
    Only `close` and `stop` may be called from another thread at the same time.
    """

    def __init__(
        self,
        layout: Layout,
        locked: Locked,
        plan: OpenPlan,
        files: tuple[ManifestFile, ...],
        budget: Budget,
        *,
        pinned: Collection[str],
        may_evict: bool,
        partial_suffix: str,
    ) -> None:
        self.marker = Marker.of(files)
        self.total_bytes = sum(file.size for file in files)
        self._layout = layout
        self._locked = locked
        self._plan = plan
        self._blobs = {file.sha256: file for file in files}
        self._budget = budget
        self._pinned = pinned
        self._may_evict = may_evict
        self._suffix = partial_suffix
        self._brought: set[str] = set()
        self._stop = threading.Event()
        self._closing = threading.Lock()

    @property
    def name(self) -> str:
        """`family:version`."""
        return f"{self._plan.plan.family}:{self._plan.plan.version}"

    @property
    def folder(self) -> Path:
        """Where the model will lie."""
        return self._layout.folder(self._plan.plan.family, self._plan.plan.version)

    @property
    def lacking(self) -> list[ManifestFile]:
        """The files that are not here, each content once."""
        return [
            file
            for sha256, file in self._blobs.items()
            if not is_file(self._layout.blob(sha256), file.size)
        ]

    def tell(self, percent: int) -> None:
        """Say how much has come, to the other processes that wait. Never fails."""
        self._plan.tell(percent)

    def stop(self) -> None:
        """Have `salvage` end early."""
        self._stop.set()

    def salvage(self) -> None:
        """Use what lies about already: a model of the first layout, a copy, a file just brought.

        Only what has the right SHA-256 is used; whatever else happens, it will be fetched.
        """
        folder = self.folder
        try:
            for file in self.lacking:
                partial = self._partial(file.sha256)
                if not is_file(partial, file.size) or journal_path(partial).exists():
                    continue
                if sha256_of(partial, self._stop) == file.sha256:
                    adopt_file(self._layout, partial, file.sha256)
            if read_marker(folder) is None or is_link(folder):
                return
            lacking = {file.sha256 for file in self.lacking}
            for file in self.marker.files:
                path = folder / file.path
                if file.sha256 not in lacking or not is_file(path, file.size):
                    continue
                if sha256_of(path, self._stop) == file.sha256:
                    share_file(self._layout, path, file.sha256)
        except (OSError, Stopped):
            return

    def claim(self) -> Claimed:
        """Make room for what nobody else brings, and claim it; see `Claimed`.

        Raises OverBudgetError, CacheFullError and LocalDiskError.
        """
        with self._locked():
            mine = self._plan.plan.load
            others = [plan for plan in live_plans(self._layout) if plan.load != mine]
            lacking = self.lacking
            taken = {s: plan for plan in others for s in plan.claims} if self._may_evict else {}
            claimed = [file for file in lacking if file.sha256 not in taken]
            self._plan.claim(frozenset(file.sha256 for file in claimed))
            removed = self._make_room() if claimed else Removal()
            waits = len(claimed) < len(lacking)
            percent = 0
            if waits:
                first = next(file for file in lacking if file.sha256 in taken)
                percent = percent_of(self._layout, taken[first.sha256])
        files = tuple((file, self._prepared(file.sha256)) for file in claimed)
        self._brought.update(file.sha256 for file in claimed)
        return Claimed(files, waits, percent, removed)

    def adopt(self, claimed: Claimed) -> None:
        """Make what was fetched, complete and verified, part of the cache. LocalDiskError."""
        folders = set()
        for file, path in claimed.files:
            try:
                adopt_file(self._layout, path, file.sha256)
            except OSError as error:
                raise local_disk_error("keep", path, error) from error
            folders.add(self._layout.blob(file.sha256).parent)
        for folder in folders:
            sync_folder(folder)

    def finish(self) -> Hold:
        """Put the model into its place and hold it. Raises LocalDiskError."""
        with self._locked():
            install(self._layout, self._plan.folder, self.folder, self.marker.files)
            held = hold(self._layout, self.folder, self.marker.digest)
            self._plan.close()
            empty_trash(self._layout, +take_inventory(self._layout).references)
        if held is None:
            raise LocalDiskError(f"{self.folder} was changed while it was written.")
        return held

    def close(self, *, forget: bool = False) -> None:
        """End the load; `forget`: what it brought goes too, unless a model is made of it."""
        self.stop()
        with self._closing:
            if forget:
                self._forget()
            remove_tree(self._plan.folder)
            self._plan.close()

    def _make_room(self) -> Removal:
        try:
            return make_room(
                self._layout,
                sum(file.size for file in self._blobs.values()),
                self._budget,
                what=self.name,
                pinned=self._pinned,
                may_evict=self._may_evict,
            )
        except BaseException:
            self._plan.claim(frozenset())
            raise

    def _forget(self) -> None:
        with self._locked():
            self._plan.close()
            found = take_inventory(self._layout)
            references = found.references
            idle = set(found.idle_partials)
            for sha256 in self._brought:
                if sha256 in idle:
                    remove_partial(self._layout, sha256)
                if not references[sha256]:
                    remove_blob(self._layout, sha256)

    def _partial(self, sha256: str) -> Path:
        return self._layout.partials / f"{sha256}{self._suffix}"

    def _prepared(self, sha256: str) -> Path:
        """The place of a partial file: no link that somebody put there."""
        partial = self._partial(sha256)
        for path in (partial, journal_path(partial)):
            if not is_file(path):
                remove_tree(path)
        return partial
