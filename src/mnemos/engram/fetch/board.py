"""What the threads of one fetch share: the parts to fetch, the files to hash, the first error."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from .target import Part, Target


class Board:
    """Hands out work until all files are settled, or something fails, or somebody stops it.

    For threads. Whoever is handed a part owns it until `part_ended()`.
    """

    def __init__(self, targets: Sequence[Target], width: int) -> None:
        self.width = width
        """How many fetch at once."""
        self._changed = threading.Condition()
        self._parts = deque(part for target in targets for part in target.parts if not _empty(part))
        self._to_hash = deque(target for target in targets if not target.is_hashed_by_writer)
        self._to_sync: deque[Target] = deque()
        self._unsettled = len(targets)
        self._stop = threading.Event()
        self.error: BaseException | None = None

    @property
    def stopping(self) -> bool:
        """Whether work must end."""
        return self._stop.is_set()

    def is_stopping(self) -> bool:
        """As `stopping`, for those who want a function."""
        return self._stop.is_set()

    def is_over(self) -> bool:
        """Whether there is nothing left to do."""
        return self.stopping or self._unsettled == 0

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond a stop."""
        self._stop.wait(seconds)

    def rest(self, seconds: float) -> None:
        """Wait, but not beyond the end."""
        with self._changed:
            self._changed.wait_for(self.is_over, seconds)

    def widen(self, width: int) -> None:
        """Let so many fetch at once; those that are too many end their parts first."""
        with self._changed:
            self.width = width
            self._changed.notify_all()

    def take_part(self, number: int) -> Part | None:
        """Return the next part to fetch; wait for one; None when there will be no more.

        The fetchers are numbered from 0, and those beyond the width wait too.
        """
        with self._changed:
            self._changed.wait_for(lambda: (self._parts and number < self.width) or self.is_over())
            return None if self.is_over() else self._parts.popleft()

    def take_file(self) -> Target | None:
        """Return the next file to hash; None when there is no more."""
        with self._changed:
            return self._to_hash.popleft() if self._to_hash and not self.is_over() else None

    def take_unsynced(self) -> Target | None:
        """Return a file whose bytes should go to the disk; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._to_sync or self.is_over())
            return None if self.is_over() else self._to_sync.popleft()

    def part_ended(self, part: Part) -> None:
        """Say that a part is written whole."""
        target = part.target
        with self._changed:
            if target.wants_sync() and target not in self._to_sync:
                self._to_sync.append(target)
            self._changed.notify_all()

    def await_prefix(
        self, target: Target, generation: int, position: int
    ) -> tuple[int, int] | None:
        """Wait until more than `position` bytes can be hashed; return (generation, end).

        Another generation than the given one says to begin again. None at a stop.
        """

        def news() -> bool:
            return self.stopping or self._prefix(target, generation, position) is not None

        with self._changed:
            self._changed.wait_for(news)
            return None if self.stopping else self._prefix(target, generation, position)

    def restart(self, target: Target) -> None:
        """Put all of a file up for fetching again. Raises LocalDiskError."""
        with self._changed:
            target.restart()
            self._parts.extendleft(reversed(target.parts))
            self._changed.notify_all()

    def take_whole(self, part: Part) -> Part | None:
        """Swap a part for its whole file, where ranges are unknown; None if another has it."""
        target = part.target
        with self._changed:
            if not _is_current(part):
                return None
            whole = target.take_whole()
            self._parts = deque(each for each in self._parts if each.target is not target)
            self._changed.notify_all()
            return whole

    def is_current(self, part: Part) -> bool:
        """Whether a part still counts."""
        return _is_current(part)

    def settled(self) -> None:
        """Say that one more file is proven and durable."""
        with self._changed:
            self._unsettled -= 1
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """End all work; the first error counts."""
        with self._changed:
            if self.error is None and not self.stopping:
                self.error = error
        self.stop()

    def stop(self) -> None:
        """End all work."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    def _prefix(self, target: Target, generation: int, position: int) -> tuple[int, int] | None:
        if target.generation != generation:
            return target.generation, 0
        end = target.prefix_from(position)
        return (generation, end) if end > position else None


def _empty(part: Part) -> bool:
    """Nothing to fetch; an object without bytes is asked for all the same."""
    return part.left == 0 and part.length > 0


def _is_current(part: Part) -> bool:
    parts = part.target.parts
    return part.index < len(parts) and parts[part.index] is part
