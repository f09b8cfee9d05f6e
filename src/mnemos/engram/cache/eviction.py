"""Makes room: first what is of no use, then what was used longest ago. Never what is in use."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CacheFullError, OverBudgetError
from .holding import is_in_use
from .inventory import CachedModel, Inventory, free_bytes, take_inventory
from .layout import MARKER, Layout, is_file
from .removing import empty_trash, remove_blob, remove_partial, throw_away_if_free

_GIB = 1024**3
_LEAST_FREE_BYTES = _GIB
_LEAST_FREE_SHARE = 0.02
_DEFAULT_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a cache may take: never so much that the disk is left (nearly) full.

    `most_bytes` None: nine tenths of what the cache holds and what is free, together.
    """

    most_bytes: int | None = None

    def limit(self, root: Path, held_bytes: int) -> int:
        """Return the most that the cache may hold, in bytes."""
        free, total = free_bytes(root)
        by_disk = held_bytes + free - least_free(total)
        if self.most_bytes is not None:
            return max(0, min(self.most_bytes, by_disk))
        return max(0, min(int(_DEFAULT_SHARE * (held_bytes + free)), by_disk))


def least_free(total_bytes: int) -> int:
    """Return what is left free of a disk with so many bytes: 2 % of it, at most 1 GiB."""
    return min(_LEAST_FREE_BYTES, int(_LEAST_FREE_SHARE * total_bytes))


@dataclass(slots=True)
class Removal:
    """What was (or would be) removed."""

    models: list[str] = field(default_factory=list)
    """`family:version`, in the order they went."""
    freed_bytes: int = 0

    def add(self, other: Removal) -> None:
        """Count what was removed besides."""
        self.models += other.models
        self.freed_bytes += other.freed_bytes


def evictable(found: Inventory, pinned: Collection[str]) -> list[CachedModel]:
    """Return the models that may go, the one that was used longest ago first."""
    loading = {f"{plan.family}:{plan.version}" for plan in found.plans}
    free = [
        model
        for model in found.models
        if model.name not in loading
        and model.name not in pinned
        and is_file(model.folder / MARKER)  # a folder without one is not the cache's to remove
        and not is_in_use(model.folder)
    ]
    return sorted(free, key=lambda model: (model.marker is not None, model.last_used))


def make_room(
    layout: Layout,
    need_bytes: int,
    budget: Budget,
    *,
    what: str,
    pinned: Collection[str] = (),
    may_evict: bool = True,
) -> Removal:
    """Have what is here and what the running loads claim fit together; `what` is one of them.

    To be called under the cache's lock. Removes nothing unless that makes enough room. Raises
    OverBudgetError when an empty cache would not hold the `need_bytes` of `what`, CacheFullError
    when what is in use, pinned or still coming leaves no room.
    """
    removed = Removal()
    before = -1
    while True:
        found = take_inventory(layout)
        limit = budget.limit(layout.root, found.total_bytes)
        if need_bytes > limit:
            raise OverBudgetError(_over(what, need_bytes, limit, budget, layout.root))
        surplus = found.total_bytes + found.still_coming() - limit
        if surplus <= 0:
            return removed
        victims = evictable(found, pinned) if may_evict else []
        chosen = choose(found, victims, surplus)
        if chosen.freed_bytes < surplus or found.total_bytes == before:  # the last try was in vain
            raise CacheFullError(_full(what, need_bytes, limit, found, victims))
        before = found.total_bytes
        removed.add(carry_out(layout, found, chosen))


@dataclass(slots=True)
class Choice:
    """What shall go, and what that frees."""

    partials: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    models: list[CachedModel] = field(default_factory=list)
    freed_bytes: int = 0


def choose(found: Inventory, victims: list[CachedModel], surplus: int) -> Choice:
    """Choose what to remove to free `surplus` bytes, or all that may go if that is less."""
    chosen = Choice()
    for sha256 in found.idle_partials:
        if chosen.freed_bytes < surplus:
            chosen.partials.append(sha256)
            chosen.freed_bytes += found.partials[sha256]
    for sha256 in found.orphans:
        if chosen.freed_bytes < surplus:
            chosen.orphans.append(sha256)
            chosen.freed_bytes += found.blobs[sha256]
    references = found.references
    for model in victims:
        if chosen.freed_bytes < surplus:
            chosen.models.append(model)
            references.subtract(model.sha256s)
            alone = sum(found.blobs.get(s, 0) for s in model.sha256s if not references[s])
            chosen.freed_bytes += model.own_bytes + alone
    return chosen


def carry_out(layout: Layout, found: Inventory, chosen: Choice) -> Removal:
    """Remove what was chosen, but no model that has been taken into use since."""
    for sha256 in chosen.partials:
        remove_partial(layout, sha256)
    for sha256 in chosen.orphans:
        remove_blob(layout, sha256)
    gone = [model for model in chosen.models if throw_away_if_free(layout, model.folder)]
    references = found.references
    for model in gone:
        references.subtract(model.sha256s)
    empty_trash(layout, +references)
    return Removal([model.name for model in gone], chosen.freed_bytes)


def _over(what: str, need: int, limit: int, budget: Budget, root: Path) -> str:
    if budget.most_bytes is not None and budget.most_bytes == limit:
        return (
            f"{what} takes {_gib(need)}, and the model cache may hold {_gib(limit)} in all"
            " (NEURON_CACHE_BUDGET_GB)."
        )
    return f"{what} takes {_gib(need)}, and the disk of {root} has {_gib(limit)} for models."


def _full(what: str, need: int, limit: int, found: Inventory, victims: list[CachedModel]) -> str:
    staying = sorted({model.name for model in found.models} - {model.name for model in victims})
    names = ", ".join(staying[:8]) + (" and others" if len(staying) > 8 else "")
    kept = (
        f"{names} {'is' if len(staying) == 1 else 'are'} in use or pinned"
        if names
        else ("others are being loaded")
    )
    return (
        f"There is no room for {what} ({_gib(need)}) in the model cache, which holds"
        f" {_gib(found.total_bytes)} of at most {_gib(limit)}: {kept}."
    )


def _gib(count: int) -> str:
    return f"{count / _GIB:.2f} GiB" if count >= _GIB // 10 else f"{count / 1024**2:.2f} MiB"
