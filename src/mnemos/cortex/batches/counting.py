"""How many lines of a batch have come out well, and how many not, while it runs."""

from __future__ import annotations

from collections import OrderedDict

from .records import OPEN, Batch, EndedLines
from .store import BatchStore

MAX_REMEMBERED = 1000


class LineCounter:
    """Counts exactly, and only what has ended since it was asked last."""

    def __init__(self, store: BatchStore) -> None:
        self._store = store
        self._known: OrderedDict[str, EndedLines] = OrderedDict()

    async def count(self, batch: Batch) -> tuple[int, int]:
        """Return how many lines have completed, and how many have failed, refused ones too."""
        progress = batch.progress
        if batch.state not in OPEN:
            self._known.pop(batch.batch_id, None)
            return progress.completed, progress.failed
        known = self._known.pop(batch.batch_id, EndedLines())
        counted = await self._store.count_ended(batch.batch_id, known)
        self._known[batch.batch_id] = counted
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return counted.completed, counted.failed + progress.faults
