"""How far a `map` is, on stderr: one line that is rewritten on a terminal, a line at times else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from .infos import Progress

OnProgress = Callable[[Progress], None]

TERMINAL_SECONDS = 0.1
PLAIN_SECONDS = 5.0


def progress_sentence(progress: Progress) -> str:
    """How far it is, in one line."""
    of = f"/{progress.total}" if progress.total is not None else ""
    failed = f", {progress.failed} failed" if progress.failed else ""
    seconds = max(progress.seconds, 1e-3)
    jobs, tokens = progress.done / seconds, progress.completion_tokens / seconds
    return f"{progress.done}{of} done{failed}, {jobs:.1f} jobs/s, {tokens:.0f} tok/s"


class ProgressLine:
    """Prints no oftener than a person reads."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stderr
        self._rewrites = self._file.isatty()
        self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Print, if it is time."""
        now = time.monotonic()
        if now - self._last < (TERMINAL_SECONDS if self._rewrites else PLAIN_SECONDS):
            return
        self._last = now
        self._print(progress, "" if self._rewrites else "\n")

    def end(self, progress: Progress) -> None:
        """Print where it ended."""
        self._print(progress, "\n")

    def _print(self, progress: Progress, end: str) -> None:
        start, rest = ("\r", "\x1b[K") if self._rewrites else ("", "")
        self._file.write(f"{start}{progress_sentence(progress)}{rest}{end}")
        self._file.flush()


class Watch:
    """Tells a caller how far a `map` is whenever that has changed."""

    def __init__(self, on_progress: OnProgress | None, *, shows: bool) -> None:
        self._line = ProgressLine() if shows else None
        self._on_progress = on_progress
        self._told = -1

    def tell(self, progress: Progress) -> None:
        """Tell it, if there is anything new."""
        if progress.done == self._told:
            return
        self._told = progress.done
        if self._on_progress is not None:
            self._on_progress(progress)
        if self._line is not None:
            self._line(progress)

    def end(self, progress: Progress) -> None:
        """Tell it for the last time."""
        self.tell(progress)
        if self._line is not None:
            self._line.end(progress)
