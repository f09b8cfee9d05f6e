"""Waiting for CORTEX to come back: not for ever, and never without a word."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import CliError, TimedOut, Unreachable
from ..output import duration

Answer = TypeVar("Answer")

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 3.0
NOTICE_SECONDS = 15.0
GIVE_UP_SECONDS = 900.0


class Patience:
    """Repeats calls that a missing server failed; says so at once and every 15 seconds after.

    Gives up with the server's own error once it has been gone for `give_up_seconds`.
    """

    def __init__(
        self, notice: Callable[[str], None], *, give_up_seconds: float = GIVE_UP_SECONDS
    ) -> None:
        self._notice = notice
        self._give_up_seconds = give_up_seconds
        self._gone_since: float | None = None
        self._last_notice = 0.0

    async def call(self, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        """Await `attempt()` until it answers."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                answer = await attempt()
            except (Unreachable, TimedOut) as error:
                self._tell(error)
            else:
                self._welcome()
                return answer
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _tell(self, error: CliError) -> None:
        now = time.monotonic()
        if self._gone_since is None:
            self._gone_since = now
            self._last_notice = now
            self._notice(f"{error.message} Waiting for it; nothing is lost.")
        gone = now - self._gone_since
        if gone > self._give_up_seconds:
            raise error
        if now - self._last_notice >= NOTICE_SECONDS:
            self._last_notice = now
            self._notice(f"Still waiting for CORTEX ({duration(gone)}): {error.message}")

    def _welcome(self) -> None:
        if self._gone_since is not None:
            gone = time.monotonic() - self._gone_since
            self._gone_since = None
            self._notice(f"CORTEX is back after {duration(gone)}; going on.")
