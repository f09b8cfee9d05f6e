"""Removes what dead processes left, and what was to be used again and was not."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from .inventory import take_inventory
from .layout import Layout, entries_of
from .locks import has_locks, is_on_network, this_machine
from .plans import live_plans, load_of
from .removing import empty_trash, remove_blob, remove_partial, remove_tree

UNUSED_SECONDS = 24 * 3600.0
"""So long an unfinished or unused file waits for a load that goes on with it."""


def remove_strays(layout: Layout, unused_seconds: float = UNUSED_SECONDS) -> int:
    """Return how many things were removed. To be called under the cache's lock.

    Loads that died, half removed models; unfinished files that nobody brings, and files that no
    model is made of, once they are older than `unused_seconds`. Models stay.
    """
    removed = _remove_dead_loads(layout)
    found = take_inventory(layout)
    removed += len(entries_of(layout.trash))
    empty_trash(layout, +found.references)
    now = time.time()
    for sha256 in found.idle_partials:
        files = [path for path in entries_of(layout.partials) if path.name.startswith(sha256)]
        if min((_age(path, now) for path in files), default=0.0) >= unused_seconds:
            remove_partial(layout, sha256)
            removed += 1
    for sha256 in found.orphans:
        if _age(layout.blob(sha256), now) >= unused_seconds:
            remove_blob(layout, sha256)
            removed += 1
    for path in entries_of(layout.lock_file.parent):
        if path != layout.lock_file:  # the first layout had one for each model
            remove_tree(path)
    _remove_empty_families(layout)
    return removed


def _remove_dead_loads(layout: Layout) -> int:
    """A load whose machine's locks may not be seen here counts as dead after a day."""
    live = {plan.load for plan in live_plans(layout)}
    unsure = not has_locks(layout.staging)
    far = is_on_network(layout.staging)
    now = time.time()
    removed = 0
    for path in entries_of(layout.staging):
        foreign = far and not path.name.startswith(this_machine())
        if load_of(path) in live and not unsure:
            continue
        if (unsure or foreign) and _age(path, now) < UNUSED_SECONDS:
            continue
        remove_tree(path)
        removed += 1
    return removed


def _remove_empty_families(layout: Layout) -> None:
    for path in entries_of(layout.root):
        if path.name[0].isalnum() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.rmdir()  # only ever an empty folder


def _age(path: Path, now: float) -> float:
    try:
        return now - path.lstat().st_mtime
    except OSError:
        return 0.0
