"""A folder of models that any number of processes share: each is there whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ..errors import InvalidKeyError, LocalDiskError
from ..keys import check_name
from ..manifest import ManifestFile
from .eviction import Budget, Removal, carry_out, choose, evictable
from .holding import Hold, hold, is_in_use
from .inventory import CachedModel, Inventory, take_inventory
from .layout import Layout
from .load import Load
from .locks import has_locks, is_on_network, locked, this_machine
from .marker import is_whole, read_marker
from .paths import check_paths
from .plans import OpenPlan, live_plans, percent_of
from .strays import UNUSED_SECONDS, remove_strays
from .verifying import Damage, take_out, verify


@dataclass(frozen=True, slots=True)
class Busy:
    """Another process of this machine loads the model; `percent` of it has come."""

    percent: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A model in the cache, for people."""

    family: str
    version: str
    digest: str
    """Empty for the first layout, and where the marker is damaged."""
    size_bytes: int
    freed_bytes: int
    """What removing it alone would free: files that others share stay."""
    files: int
    last_used: float
    """Seconds since the epoch."""
    in_use: bool
    whole: bool
    """Whether every file is there with its size."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the cache holds and may hold, in bytes."""

    held_bytes: int
    limit_bytes: int


class ArtifactCache:
    """The models below `root`; see layout.py for what lies where.

    Every method blocks: call it in a thread. All of it is rebuilt from what lies on the disk, at
    each call. `budget_bytes` None: see Budget. `pinned` are `family:version` that are never
    evicted by this process.
    """

    def __init__(
        self, root: Path, budget_bytes: int | None = None, pinned: Collection[str] = ()
    ) -> None:
        self.layout = Layout(root)
        self._budget = Budget(budget_bytes)
        self._pinned = frozenset(pinned)

    @property
    def root(self) -> Path:
        """Where it lies."""
        return self.layout.root

    def folder(self, family: str, version: str) -> Path:
        """Return where a model lies or would lie. Raises InvalidKeyError, LocalDiskError."""
        return self.layout.folder(family, version)

    def get(self, family: str, version: str, digest: str | None = None) -> Path | None:
        """Return a model's folder if it is here, whole, and has this digest (None: any).

        Cheap: kinds and sizes are looked at, no file is read. Raises as `folder`.
        """
        held = self.hold(family, version, digest)
        if held is None:
            return None
        held.close()
        return held.path

    def hold(self, family: str, version: str, digest: str | None = None) -> Hold | None:
        """As `get`, and keep the model here until the hold is closed, or this process ends."""
        return hold(self.layout, self.folder(family, version), digest)

    def files(self, family: str, version: str) -> tuple[ManifestFile, ...]:
        """Return the files that a model here is made of, whole or not; none if that is unknown."""
        marker = read_marker(self.folder(family, version))
        return () if marker is None or marker.is_old else marker.files

    def begin(self, family: str, version: str, files: Sequence[ManifestFile]) -> Load | Hold | Busy:
        """Begin to load a model; the Hold if it is here already, Busy while another loads it.

        Raises InvalidKeyError for names and paths that cannot be, LocalDiskError.
        """
        self.folder(family, version)
        check_paths([file.path for file in files])
        sizes: dict[str, int] = {}
        for file in files:
            if sizes.setdefault(file.sha256, file.size) != file.size:
                raise InvalidKeyError(f"The list names {file.path!r} with two sizes.")
        self.layout.make()
        with self.locked():
            plan = OpenPlan(self.layout, family, version, files)
            try:
                load = self._load(plan, files)
                if held := self.hold(family, version, load.marker.digest):
                    plan.close()
                    return held
                if busy := self._busy(plan):
                    plan.close()
                    return busy
            except BaseException:
                plan.close()
                raise
        return load

    def _load(self, plan: OpenPlan, files: Sequence[ManifestFile]) -> Load:
        locks = has_locks(self.layout.staging)
        suffix = ""
        if not locks:
            suffix = f".{this_machine()}-{uuid4().hex[:8]}"
        elif is_on_network(self.layout.staging):
            suffix = f".{this_machine()}"
        return Load(
            self.layout,
            self.locked,
            plan,
            tuple(files),
            self._budget,
            pinned=self._pinned,
            may_evict=locks,
            partial_suffix=suffix,
        )

    def _busy(self, mine: OpenPlan) -> Busy | None:
        if not has_locks(self.layout.staging):
            return None
        wanted = (mine.plan.family, mine.plan.version)
        for plan in live_plans(self.layout):
            if plan.load != mine.plan.load and (plan.family, plan.version) == wanted:
                return Busy(percent_of(self.layout, plan))
        return None

    def entries(self) -> list[Entry]:
        """Return the models that are here, by name. Raises LocalDiskError."""
        if not self.root.is_dir():
            return []
        with self._looking():
            found = take_inventory(self.layout)
            references = found.references
            return [_entry(self.layout, found, references, model) for model in found.models]

    def usage(self) -> Usage:
        """Return how many bytes the cache holds, unfinished files included. LocalDiskError."""
        if not self.root.is_dir():
            self.layout.make()
        with self._looking():
            held = take_inventory(self.layout).total_bytes
        return Usage(held, self._budget.limit(self.root, held))

    def verify(
        self, family: str, version: str, stop: threading.Event | None = None
    ) -> list[Damage]:
        """Read a model's files again and return those that are not right. Raises as `folder`."""
        name = f"{family}:{version}"
        return verify(self.layout, name, self.folder(family, version), stop)

    def take_out(self, damages: Sequence[Damage]) -> set[str]:
        """Remove damaged files, so that the next load brings them; return the models' names."""
        self.layout.make()
        with self.locked():
            return take_out(self.layout, damages)

    def prune(
        self, to_bytes: int | None = None, keep: Collection[str] = (), *, dry_run: bool = False
    ) -> Removal:
        """Remove strays, then the models used longest ago until `to_bytes` are left.

        None: what the budget allows. Models in use, pinned or in `keep` stay, so that more may
        be left. `dry_run` removes nothing and says what would go. Raises LocalDiskError.
        """
        if not self.root.is_dir():
            return Removal()
        self.layout.make()
        with self.locked():
            if not dry_run:
                remove_strays(self.layout)
            found = take_inventory(self.layout)
            most = self._budget.limit(self.root, found.total_bytes)
            surplus = found.total_bytes - (most if to_bytes is None else to_bytes)
            locks = has_locks(self.layout.staging)
            stay = self._pinned | frozenset(keep)
            victims = evictable(found, stay) if locks else []
            chosen = choose(found, victims, surplus)
            if dry_run:
                return Removal([model.name for model in chosen.models], chosen.freed_bytes)
            return carry_out(self.layout, found, chosen)

    def remove_strays(self, unused_seconds: float = UNUSED_SECONDS) -> int:
        """Remove what dead processes left; return how many things. Raises LocalDiskError."""
        if not self.root.is_dir():
            return 0
        self.layout.make()
        with self.locked():
            return remove_strays(self.layout, unused_seconds)

    @contextlib.contextmanager
    def _looking(self) -> Iterator[None]:
        """As `locked`; without a lock where nothing can be written, and so nothing changes."""
        with contextlib.ExitStack() as stack:
            try:
                self.layout.make()
                stack.enter_context(self.locked())
            except LocalDiskError as error:
                if error.errno not in (errno.EROFS, errno.EACCES):
                    raise
            yield

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the cache's lock, alone among all processes: for moments only."""
        with locked(self.layout.lock_file):
            yield


def _entry(layout: Layout, found: Inventory, references: Counter[str], model: CachedModel) -> Entry:
    alone = sum(found.blobs.get(sha256, 0) for sha256 in model.sha256s if references[sha256] == 1)
    files = model.marker.files if model.marker is not None else ()
    return Entry(
        family=model.family,
        version=model.version,
        digest="" if model.marker is None or model.marker.is_old else model.marker.digest,
        size_bytes=sum(file.size for file in files),
        freed_bytes=model.own_bytes + alone,
        files=len(files),
        last_used=model.last_used,
        in_use=is_in_use(model.folder),
        whole=model.marker is not None and is_whole(layout, model.folder, model.marker),
    )


def split_model(name: str) -> tuple[str, str]:
    """Return family and version of `family:version`. Raises InvalidKeyError."""
    family, _, version = name.partition(":")
    return check_name(family, "family"), check_name(version, "version")
