"""Lists as parameters, written so that both databases take them and prepare the statement once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NOWHERE = -1
"""No row has this number: it fills places that a shorter list leaves."""


class Places:
    """Room for up to `size` numbers in an `IN (…)`."""

    def __init__(self, size: int) -> None:
        self._names = [f"place{number}" for number in range(size)]
        self.text = ", ".join(f":{name}" for name in self._names)
        """What stands between the brackets."""

    def fill(self, numbers: Sequence[int]) -> Mapping[str, int]:
        """Return the parameters. There must be no more numbers than places."""
        filled = [*numbers, *[NOWHERE] * (len(self._names) - len(numbers))]
        return dict(zip(self._names, filled, strict=True))
