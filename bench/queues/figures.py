"""What is measured of a queue, alike for each."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PAYLOAD_BYTES = 500
SINGLES = 1_000
"""Jobs that are enqueued one by one, each awaited before the next."""
JOBS = 10_000
"""Jobs that wait when the worker starts, the singles among them."""
SLOTS = 64
PICKUPS = 200
ROUNDS = 3


@dataclass(slots=True)
class Figures:
    """One queue's figures, over the rounds."""

    name: str
    jobs_per_second: list[float] = field(default_factory=list)
    singles_per_second: list[float] = field(default_factory=list)
    pickup_ms: list[float] = field(default_factory=list)

    def add(self, told: dict[str, Any]) -> None:
        """Take in one round, as `measured` of a queue gives it."""
        self.jobs_per_second.append(JOBS / (told["ended_at"] - told["first_at"]))
        self.singles_per_second.append(SINGLES / told["singles_seconds"])
        self.pickup_ms += [1000 * seconds for seconds in told["pickup_seconds"]]

    @property
    def jobs(self) -> float:
        """Jobs a second, the median round."""
        return statistics.median(self.jobs_per_second)

    @property
    def singles(self) -> float:
        """Jobs enqueued a second, one by one, the median round."""
        return statistics.median(self.singles_per_second)

    @property
    def pickup_p50(self) -> float:
        """Milliseconds from asking to the handler's start on an idle queue, the median."""
        return percentile(self.pickup_ms, 50)

    @property
    def pickup_p99(self) -> float:
        """The same, of the slowest in a hundred."""
        return percentile(self.pickup_ms, 99)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def text_of(size_bytes: int = PAYLOAD_BYTES) -> str:
    """One word, such that it takes `size_bytes` as JSON."""
    return "x" * (size_bytes - len(json.dumps("")))
