"""When an engine counts as hung."""

from __future__ import annotations

PING_SECONDS = 5.0
_PINGS_PER_STALL = 4


class StallWatch:
    """Judges an engine by what it answered to its last ping; `tick` is called at every ping.

    Time is counted in pings, not by the clock: when the worker itself was held up, its engine is
    not to blame. Only time with work counts, and it adds up until the engine makes a step or has
    answered all that it was asked, so that cancelling what hangs does not hide the hang.
    """

    def __init__(self, stall_seconds: float) -> None:
        self.interval = min(PING_SECONDS, stall_seconds / _PINGS_PER_STALL)
        """Seconds from one ping to the next."""
        self._stall_seconds = stall_seconds
        self._steps = 0
        self._was_busy = False
        self._unproductive = 0.0
        self._silent = 0.0
        self._heard = True

    def heard(self) -> None:
        """The engine answered a ping."""
        self._heard = True

    def answered_everything(self) -> None:
        """The engine has answered the last of its open requests."""
        self._unproductive = 0.0

    def tick(self, steps: int, *, busy: bool) -> str | None:
        """What is wrong with the engine, if anything is.

        `steps` is what the engine last said, `busy` whether there is a request, on either side.
        """
        self._silent = 0.0 if self._heard else self._silent + self.interval
        self._heard = False
        if steps != self._steps:
            self._unproductive = 0.0
        elif busy and self._was_busy:
            self._unproductive += self.interval
        self._steps, self._was_busy = steps, busy
        if self._silent >= self._stall_seconds:
            return f"has not answered for {self._stall_seconds:g} s"
        if self._unproductive >= self._stall_seconds:
            return f"made no progress for {self._stall_seconds:g} s"
        return None
