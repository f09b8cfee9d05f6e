"""A token bucket: so many a minute, and after a quiet minute as many at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """Holds what may be used now; times are seconds of one monotonic clock.

    It is full at first and may be overdrawn: what is taken beyond it must flow in again before
    anything else is given. So a request larger than the bucket passes once the bucket is full.
    """

    per_minute: int
    level: float
    at: float

    @classmethod
    def full(cls, per_minute: int, now: float) -> TokenBucket:
        """A bucket that nobody has taken from."""
        return cls(per_minute, per_minute, now)

    def resize(self, per_minute: int) -> None:
        """Let another amount flow in from now on."""
        self.per_minute = per_minute
        self.level = min(self.level, per_minute)

    def fill(self, now: float) -> None:
        """Let in what has flowed since it was looked at last."""
        flowed = (now - self.at) * self.per_minute / 60
        self.level = min(self.per_minute, self.level + max(0.0, flowed))
        self.at = now

    def wait_seconds(self, wanted: float) -> float:
        """How long until `wanted` may be taken, or all that it can hold; 0 is now."""
        missing = min(wanted, self.per_minute) - self.level
        return max(0.0, missing * 60 / self.per_minute)

    def take(self, amount: float) -> None:
        """Take out an amount; a negative one is given back."""
        self.level = min(self.per_minute, self.level - amount)
