"""Log lines that may come by the thousand: a few a second are written, all are counted."""

from __future__ import annotations

import time
from collections.abc import Callable

LINES_PER_SECOND = 50


class LineBudget:
    """Says which lines to write; belongs to one event loop.

    `omitted` counts those since the last that was written; whoever writes one tells it and
    sets it to 0.
    """

    def __init__(
        self, per_second: int = LINES_PER_SECOND, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.omitted = 0
        self._per_second = per_second
        self._clock = clock
        self._until = 0.0
        self._left = 0

    def take(self) -> bool:
        """Whether to write the next line."""
        if not self._left:
            now = self._clock()
            if now < self._until:
                self.omitted += 1
                return False
            self._until = now + 1.0
            self._left = self._per_second
        self._left -= 1
        return True

    def told(self) -> dict[str, int]:
        """Return what the line that is written says of those that were not."""
        omitted, self.omitted = self.omitted, 0
        return {"lines_omitted_before": omitted} if omitted else {}
