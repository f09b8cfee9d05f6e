"""Some items that are answered together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Generic, TypeVar

from ...errors import NeuronError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Request(Generic[Item, Answer]):
    """What one job asks of the model; the batcher's thread fills it in."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = list(items)
        self.answers: list[Answer | None] = [None] * len(items)
        self.waiting = dict.fromkeys(range(len(items)))
        """The places of the items that no call has taken, in order."""
        self.left = len(items)
        self.error: NeuronError | None = None
        self.cancelled = False
        self.largest_batch = 0
        self.submitted = time.monotonic()
        self.started: float | None = None
        self.finished: float | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is computed for it."""
        return self.cancelled or self.error is not None or self.left == 0

    @property
    def next_place(self) -> int | None:
        """The place of its oldest item that waits."""
        return next(iter(self.waiting), None)
