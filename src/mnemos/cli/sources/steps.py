"""Showing the steps of a long piece of work: bars on a terminal, a line a step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..output import console, duration, note, size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_SECONDS = 5.0


class Step:
    """One step; `advance_to` takes bytes done, of `total` where it is known."""

    def __init__(self, title: str, progress: Progress | None, task: TaskID | None) -> None:
        self._title = title
        self._progress = progress
        self._task = task
        self._last = time.monotonic()

    def advance_to(self, done: int, total: int | None = None) -> None:
        """Show how far the step is. Cheap; may be called often and from any thread."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            of = f" of {size(total)}" if total else ""
            note(f"  {self._title}: {size(done)}{of}")

    def say(self, words: str) -> None:
        """Show what the step is doing where there are no bytes to count."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=f"{self._title}: {words}")


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Show a step from here to the end of the block, and how long it took."""
    started = time.monotonic()
    if sys.stderr.isatty():
        with _bar() as progress:
            yield Step(title, progress, progress.add_task(title, total=None))
    else:
        note(f"{title} …")
        yield Step(title, None, None)
    note(f"{title}: done in {duration(time.monotonic() - started)}")


def _bar() -> Progress:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console(stderr=True),
        transient=True,
    )
