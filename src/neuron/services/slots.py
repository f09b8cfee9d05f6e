"""How many jobs may run at once, counted before they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class SlotPool:
    """Slots are free, reserved (asked for) or in use. Belongs to one event loop; never blocks."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._taken = 0
        self._changed = asyncio.Event()

    @property
    def capacity(self) -> int:
        """How many jobs may run at once."""
        return self._capacity

    @capacity.setter
    def capacity(self, value: int) -> None:
        self._capacity = value
        self._changed.set()

    @property
    def taken(self) -> int:
        """Slots reserved or in use; more than the capacity for a while after it was lowered."""
        return self._taken

    @property
    def free(self) -> int:
        """Slots that can be reserved now."""
        return max(0, self._capacity - self._taken)

    def try_reserve(self) -> bool:
        """Take one slot, if one is free."""
        if self.free == 0:
            return False
        self._taken += 1
        return True

    async def reserve_all_free(self, at_least: Callable[[], int] = lambda: 1) -> int:
        """Wait until enough slots are free, then take all that are; return how many."""
        while self.free < max(1, at_least()):
            self._changed.clear()
            await self._changed.wait()
        count = self.free
        self._taken += count
        return count

    def look_again(self) -> None:
        """Ask those who wait how many slots they wait for now."""
        self._changed.set()

    def take_over(self) -> None:
        """Take one more slot, out of a reservation that is given back whole right after."""
        self._taken += 1

    def give_back(self, count: int = 1) -> None:
        """Free slots that were taken."""
        self._taken -= count
        self._changed.set()
