"""How a benchmark says what it found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure; with a target it passes or fails."""

    name: str
    value: float
    unit: str
    note: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def missed(self) -> bool:
        """Whether the figure is on the wrong side of its target."""
        below = self.at_least is not None and self.value < self.at_least
        above = self.at_most is not None and self.value > self.at_most
        return below or above

    def __str__(self) -> str:
        verdict = ""
        if self.at_least is not None or self.at_most is not None:
            verdict = "MISSED" if self.missed else "ok"
        return f"  {self.name:<34} {self.value:>10.2f} {self.unit:<4} {self.note:<28} {verdict}"
