"""How far a run is: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import click

from ..output import console, duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

WINDOW_SECONDS = 30.0
PLAIN_SECONDS = 5.0
WAITING = "waiting for the first answer"


class RunProgress(Protocol):
    """What a run tells while it goes on."""

    def advance(self, done: int, failed: int, tokens: int) -> None:
        """`done` and `failed` are totals, `tokens` came since the last call."""

    def tick(self) -> None:
        """Called about once a second."""

    def note(self, message: str) -> None:
        """Say something without spoiling the display."""

    def close(self) -> None:
        """Put the terminal back."""


class Rates:
    """Jobs and tokens a second over the last half minute."""

    def __init__(self, done: int, now: float) -> None:
        self._marks: deque[tuple[float, int, int]] = deque([(now, done, 0)])
        self._tokens = 0

    def add(self, now: float, done: int, tokens: int) -> None:
        """Note how far things are."""
        self._tokens += tokens
        self._marks.append((now, done, self._tokens))
        while len(self._marks) > 2 and now - self._marks[0][0] > WINDOW_SECONDS:
            self._marks.popleft()

    def read(self, now: float) -> tuple[float, float]:
        """Jobs a second, tokens a second."""
        then, done, tokens = self._marks[0]
        seconds = max(now - then, 1e-3)
        return (self._marks[-1][1] - done) / seconds, (self._tokens - tokens) / seconds


class _Reporter:
    def __init__(self, total: int, done: int) -> None:
        self._total = total
        self._done = done
        self._failed = 0
        self._began_with = done
        self._rates = Rates(done, time.monotonic())

    def advance(self, done: int, failed: int, tokens: int) -> None:
        self._done, self._failed = done, failed
        self._rates.add(time.monotonic(), done, tokens)

    def _summary(self) -> str:
        if self._done == self._began_with:
            return WAITING
        jobs, tokens = self._rates.read(time.monotonic())
        failed = f", {self._failed} failed" if self._failed else ""
        remaining = self._total - self._done
        left = f", {duration(remaining / jobs)} left" if remaining and jobs > 0 else ""
        return f"{tokens:.0f} tok/s, {jobs:.1f} jobs/s{left}{failed}"


class PlainProgress(_Reporter):
    """One line on stderr every five seconds."""

    def __init__(self, total: int, done: int) -> None:
        super().__init__(total, done)
        self._last = time.monotonic()

    def tick(self) -> None:
        """Print a line when it is time for one."""
        now = time.monotonic()
        if now - self._last >= PLAIN_SECONDS:
            self._last = now
            self.note(f"{self._done}/{self._total} done, {self._summary()}")

    def note(self, message: str) -> None:
        """Print a line."""
        click.echo(message, err=True)

    def close(self) -> None:
        """Print where it ended."""
        self.note(f"{self._done}/{self._total} done, {self._summary()}")


class BarProgress(_Reporter):
    """A live bar on stderr."""

    def __init__(self, total: int, done: int) -> None:
        super().__init__(total, done)
        self._progress, self._task = _new_bar(total, done)
        self._progress.start()

    def advance(self, done: int, failed: int, tokens: int) -> None:
        """Move the bar."""
        super().advance(done, failed, tokens)
        self.tick()

    def tick(self) -> None:
        """Refresh rate and time left."""
        self._progress.update(self._task, completed=self._done, words=self._summary())

    def note(self, message: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(message, markup=False)

    def close(self) -> None:
        """Leave the finished bar behind."""
        self._progress.stop()


def _new_bar(total: int, done: int) -> tuple[Progress, TaskID]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    progress = Progress(
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        console=console(stderr=True),
    )
    return progress, progress.add_task(
        "run", total=total, completed=done, words="waiting for the first answer"
    )


def open_progress(total: int, done: int) -> RunProgress:
    """The display that fits where stderr goes."""
    live = sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
    return BarProgress(total, done) if live else PlainProgress(total, done)
