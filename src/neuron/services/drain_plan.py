"""Which running jobs can still finish before a worker must leave."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

RESERVE_SHARE = 0.1
LONGEST_RESERVE_SECONDS = 5.0
LEAST_MEASURED_SECONDS = 0.25
"""A speed that was measured for less is not relied on."""


@dataclass(frozen=True, slots=True)
class TextProgress:
    """How far one answer has got; `tokens` counts those of earlier attempts, too.

    `tokens_per_second` is None as long as it was not measured: while the model loads, say.
    """

    tokens: int
    max_tokens: int
    tokens_per_second: float | None

    @property
    def seconds_needed(self) -> float | None:
        """How long the answer takes if it goes on to max_tokens; None if that is not known."""
        left = max(0, self.max_tokens - self.tokens)
        return left / self.tokens_per_second if self.tokens_per_second else None


@dataclass(slots=True)
class SpeedMeter:
    """Measures from the first token on, so that neither queue nor prompt count."""

    first_at: float | None = None
    first_tokens: int = 0
    last_at: float = 0.0
    last_tokens: int = 0

    def note(self, tokens: int, now: float) -> None:
        """There are `tokens` in all at the time `now`, in seconds."""
        if self.first_at is None:
            self.first_at, self.first_tokens = now, tokens
        self.last_at, self.last_tokens = now, tokens

    @property
    def tokens_per_second(self) -> float | None:
        """The mean so far; None until there is enough to tell."""
        if self.first_at is None or self.last_at - self.first_at < LEAST_MEASURED_SECONDS:
            return None
        return (self.last_tokens - self.first_tokens) / (self.last_at - self.first_at)


def reserve_of(seconds: float) -> float:
    """Return how much of a drain is kept for handing back what has not finished."""
    return min(LONGEST_RESERVE_SECONDS, RESERVE_SHARE * seconds)


def jobs_to_hand_back(
    jobs: Mapping[Key, TextProgress | None], seconds_left: float, reserve_seconds: float
) -> list[Key]:
    """Return the jobs that cannot finish in time, by their speed and what is left of them.

    Of which nothing is known (custom models, rows, an answer that has not begun) may go on until
    only the reserve is left; then everything goes back.
    """
    usable = seconds_left - reserve_seconds
    if usable <= 0:
        return list(jobs)
    return [key for key, progress in jobs.items() if _needs(progress) > usable]


def _needs(progress: TextProgress | None) -> float:
    needed = progress.seconds_needed if progress is not None else None
    return needed if needed is not None else 0.0
