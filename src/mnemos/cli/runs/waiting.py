"""Why no answer comes: asked of CORTEX when it has been quiet for a while."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from ..errors import CliError
from ..http import CortexClient

QUIET_SECONDS = 8.0
ASK_SECONDS = 5.0


class WhyWaiting:
    """Tells, once each, what the oldest unanswered job waits for.

    Of one that runs, what its worker last said of it, unless `pending_only`.
    """

    def __init__(
        self,
        cortex: CortexClient,
        tell: Callable[[str], None],
        *,
        quiet_seconds: float = QUIET_SECONDS,
        pending_only: bool = False,
    ) -> None:
        self._cortex = cortex
        self._tell = tell
        self._quiet_seconds = quiet_seconds
        self._pending_only = pending_only
        self._done = -1
        self._last_change = time.monotonic()
        self._told = ""

    async def look(self, job_id: str, done: int) -> None:
        """Ask about a job when nothing was answered for a while; never raises CliError."""
        now = time.monotonic()
        if done != self._done:
            self._done, self._last_change = done, now
            return
        if now - self._last_change < self._quiet_seconds:
            return
        self._last_change = now
        reason = await self._reason(job_id)
        kind = re.sub(r"[\d.]+", "", reason)
        if reason and kind != self._told:
            self._told = kind
            self._tell(f"Waiting: {reason}")

    async def _reason(self, job_id: str) -> str:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                job = await self._cortex.job(job_id)
        except (CliError, TimeoutError):
            return ""  # the run itself says when CORTEX is gone
        said = None if self._pending_only else job.get("status_message")
        return str(job.get("waiting_reason") or said or "")
