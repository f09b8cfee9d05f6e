"""Waiting for a batch: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from .batch_calls import BatchClient
from .errors import ExitCode, TimedOut, Unreachable
from .output import console, note

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LOOK_SECONDS = 0.5
PLAIN_SECONDS = 5.0
GIVE_UP_SECONDS = 120.0
ENDED = frozenset({"completed", "failed", "cancelled", "expired"})


class Display(Protocol):
    """Shows how far a batch is."""

    def show(self, batch: dict[str, Any]) -> None:
        """Take what is known now."""


async def watch(cortex: BatchClient, batch_id: str, display: Display) -> dict[str, Any]:
    """Return a batch once it has ended. Cancelling leaves it alone.

    Raises Unreachable once CORTEX has been gone for two minutes.
    """
    gone_since: float | None = None
    while True:
        try:
            batch = await cortex.batch(batch_id)
        except (Unreachable, TimedOut) as error:
            now = time.monotonic()
            if gone_since is None:
                gone_since = now
                note(f"{error.message} Waiting for it; the batch goes on.")
            elif now - gone_since > GIVE_UP_SECONDS:
                raise
        else:
            gone_since = None
            display.show(batch)
            if batch["status"] in ENDED:
                return batch
        await asyncio.sleep(LOOK_SECONDS)


def exit_code_of(batch: dict[str, Any]) -> ExitCode:
    """The exit status that mirrors a batch that has ended: 0 where every line is answered."""
    if batch["status"] == "expired":
        return ExitCode.TIMED_OUT
    good = batch["status"] == "completed" and not batch["request_counts"]["failed"]
    return ExitCode.OK if good else ExitCode.FAILED


def progress_words(batch: dict[str, Any]) -> str:
    """How far a batch is, in a line."""
    counts = batch["request_counts"]
    done = counts["completed"] + counts["failed"]
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{batch['status']}: {done}/{counts['total']} lines{failed}"


@contextmanager
def open_display(*, shown: bool) -> Iterator[Display]:
    """The display that fits where stderr goes; it says nothing unless `shown`."""
    live = sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
    if not shown:
        yield _Quiet()
    elif not live:
        yield _Lines()
    else:
        bar = _Bar()
        try:
            yield bar
        finally:
            bar.close()


class _Quiet:
    def show(self, batch: dict[str, Any]) -> None:
        """Say nothing."""


class _Lines:
    def __init__(self) -> None:
        self._said, self._at = "", 0.0

    def show(self, batch: dict[str, Any]) -> None:
        """Say what is new, not oftener than every few seconds, and the end at once."""
        words = progress_words(batch)
        now = time.monotonic()
        due = now - self._at >= PLAIN_SECONDS or batch["status"] in ENDED
        if words != self._said and due:
            self._said, self._at = words, now
            note(words)


class _Bar:
    def __init__(self) -> None:
        self._progress, self._task = _new_bar()
        self._progress.start()

    def show(self, batch: dict[str, Any]) -> None:
        """Move the bar."""
        counts = batch["request_counts"]
        done = counts["completed"] + counts["failed"]
        total = counts["total"] or None
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        words = f"{batch['status']}{failed}"
        self._progress.update(self._task, total=total, completed=done, words=words)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


def _new_bar() -> tuple[Progress, TaskID]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    progress = Progress(
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TimeRemainingColumn(),
        console=console(stderr=True),
    )
    return progress, progress.add_task("batch", total=None, words="validating")
