"""What tests that count promises count, and how much of it they do."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done: the whole numbers in the long form, a part of them in CI's."""

    long: bool

    def of(self, whole: int, short: int) -> int:
        """Return `whole` in the long form, `short` in the other."""
        return whole if self.long else short


@dataclass(slots=True)
class Figures:
    """What a test counted; printed at the end of the session, whether it passed or not."""

    title: str
    counted: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, value: object, unit: str = "") -> None:
        """Note one figure, as `note("results accepted twice", 0)`."""
        match value:
            case float():
                shown = f"{value:,.4g}"
            case int():
                shown = f"{value:,}"
            case _:
                shown = str(value)
        self.counted[what] = f"{shown} {unit}".strip()

    def __str__(self) -> str:
        return f"{self.title}: " + " · ".join(
            f"{what} {value}" for what, value in self.counted.items()
        )
