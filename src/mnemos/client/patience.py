"""How long a client waits for CORTEX to come back: not for ever, and never without a word."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from .errors import ApiError, MnemosError, UnreachableError

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 3.0
NOTICE_SECONDS = 15.0

Notice = Callable[[str], None]
_log = logging.getLogger("mnemos.client")


class Patience:
    """Says after each failure how long to pause, or that it was the last.

    Only what is retryable is worth a pause, and all pauses without a success between them take
    `seconds` at most. The first failure is told at once, and every 15 seconds after. With
    `fail_fast`, an address at which nobody listens is an error at once. `for_limits` says that
    CORTEX is there, only busy: a success is no news then.
    """

    def __init__(
        self,
        seconds: float,
        notice: Notice | None = None,
        *,
        fail_fast: bool = False,
        for_limits: bool = False,
    ) -> None:
        self._seconds = seconds
        self._notice = notice or _log.warning
        self._fail_fast = fail_fast
        self._for_limits = for_limits
        self._gone_since: float | None = None
        self._last_notice = 0.0
        self._pause = FIRST_PAUSE_SECONDS

    def pause_after(self, error: MnemosError, *, endless: bool = False) -> float:
        """Seconds to wait before the next try; raises the error when there is to be none.

        `endless` says that something is going on meanwhile which ends the trouble.
        """
        now = time.monotonic()
        if self._gone_since is None:
            self._gone_since = now
        refused = isinstance(error, UnreachableError) and error.refused
        if not error.retryable or (refused and self._fail_fast):
            raise error
        pause = self._next_pause(error)
        if not endless and now + pause > self._gone_since + self._seconds:
            raise error
        self._tell(error, now)
        return pause

    def _next_pause(self, error: MnemosError) -> float:
        asked = error.retry_after_seconds if isinstance(error, ApiError) else None
        pause = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        return pause if asked is None else asked

    def _tell(self, error: MnemosError, now: float) -> None:
        if not self._last_notice:
            self._last_notice = now
            self._notice(f"{error.message} Waiting for it; nothing is lost.")
        elif now - self._last_notice >= NOTICE_SECONDS:
            self._last_notice = now
            gone = now - (self._gone_since or now)
            since = "" if self._for_limits else f" for CORTEX ({gone:.0f}s)"
            self._notice(f"Still waiting{since}: {error.message}")

    def succeeded(self) -> None:
        """Forget the failures so far."""
        self._fail_fast = False
        self._pause = FIRST_PAUSE_SECONDS
        if self._gone_since is None:
            return
        gone = time.monotonic() - self._gone_since
        self._gone_since = None
        if self._last_notice and not self._for_limits:
            self._last_notice = 0.0
            self._notice(f"CORTEX is back after {gone:.1f}s; going on.")
