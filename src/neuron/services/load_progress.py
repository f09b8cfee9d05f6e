"""How far a model is on its way into memory, in numbers and in words for a person."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

TELL_SECONDS = 1.0
"""Between two tellings of a download, which each tell at least a percent more."""
TELL_AGAIN_SECONDS = 10.0
"""A percent of a large model takes long: the time that is left is news too."""
WINDOW_SECONDS = 10.0
"""The rate is that of so many seconds."""
SETTLE_SECONDS = 1.0
"""What is found at the beginning came with an earlier try: it says nothing about the rate."""
_SAMPLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """News of a load; the bytes are 0 where none are on their way."""

    message: str
    bytes_done: int = 0
    bytes_total: int = 0
    counts_on: bool = False
    """Whether only the numbers differ from the news before: then it may be passed over."""


OnProgress = Callable[[LoadProgress], None]


class TransferMeter:
    """Measures one download from the bytes that are here; the first call names what was before.

    Times are seconds. What was here before counts as done, and not as fast.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.done = 0
        self.total = 0
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()
        self._began: float | None = None
        self._told_at = 0.0
        self._told_percent = -1
        self._tellings = 0

    def note(self, done: int, total: int) -> bool:
        """Take the bytes that are here, and those of the whole; say whether it is time to tell."""
        now = self._clock()
        self.done, self.total = done, total
        if self._began is None:
            self._began = now
        if now - self._began < SETTLE_SECONDS:
            self._samples.clear()
        if not self._samples or now - self._samples[-1][0] >= _SAMPLE_SECONDS:
            self._samples.append((now, done))
        while len(self._samples) > 1 and now - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()
        return self._is_time(now)

    def _is_time(self, now: float) -> bool:
        since = now - self._told_at
        is_first = self._told_percent < 0
        is_news = self.percent != self._told_percent or since >= TELL_AGAIN_SECONDS
        if not is_first and (since < TELL_SECONDS or not is_news):
            return False
        self._told_at, self._told_percent = now, self.percent
        self._tellings += 1
        return True

    @property
    def has_begun(self) -> bool:
        """Whether any bytes were told of."""
        return self._began is not None

    @property
    def seconds(self) -> float:
        """How long it has been going on; 0 before it began."""
        return 0.0 if self._began is None else self._clock() - self._began

    @property
    def percent(self) -> int:
        """Whole percents that are here."""
        return min(100, 100 * self.done // self.total) if self.total else 0

    @property
    def bytes_per_second(self) -> float | None:
        """How fast it goes now; None while that cannot be said."""
        if not self._samples:
            return None
        since, before = self._samples[0]
        seconds = self._clock() - since
        if seconds < _SAMPLE_SECONDS or self.done <= before:
            return None
        return (self.done - before) / seconds

    @property
    def seconds_left(self) -> float | None:
        """How long it will take, if it goes on like this."""
        rate = self.bytes_per_second
        return None if rate is None else max(0, self.total - self.done) / rate

    def progress(self) -> LoadProgress:
        """Say how far it is."""
        left = self.seconds_left
        rest = "" if left is None or self.percent == 100 else f", {in_words(left)} left"
        words = f"loading model {self.percent} %{rest}"
        return LoadProgress(words, self.done, self.total, counts_on=self._tellings > 1)


def starting(seconds: float) -> LoadProgress:
    """Say for how long the engine has been starting."""
    so_far = f", {in_words(seconds)} so far" if seconds >= 1 else ""
    return LoadProgress(f"starting the engine{so_far}", counts_on=bool(so_far))


def in_words(seconds: float) -> str:
    """`41 s`, `3 min 20 s`, `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
