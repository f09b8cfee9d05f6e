"""Waiting longer after each failure, without all workers coming back at the same moment."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Exponential backoff with jitter: each delay lies in the upper half of initial * 2ⁿ.

    Times are seconds. `reset()` after a success.
    """

    initial: float = 0.2
    maximum: float = 5.0
    jitter: random.Random = field(default_factory=random.SystemRandom, repr=False)
    failures: int = 0

    def next_delay(self) -> float:
        """Count one more failure and return how long to wait because of it."""
        ceiling = min(self.maximum, self.initial * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return ceiling * (0.5 + 0.5 * self.jitter.random())

    def reset(self) -> None:
        """Forget all failures."""
        self.failures = 0
