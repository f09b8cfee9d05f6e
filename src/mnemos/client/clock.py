"""How long a caller still wants to wait for a job."""

from __future__ import annotations

import time

from . import wire
from .errors import WaitTimeoutError


class Clock:
    """Counts down `seconds`; None is for ever."""

    def __init__(self, job_id: str, seconds: float | None) -> None:
        self._job_id = job_id
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        """Raise WaitTimeoutError when the time is over."""
        if self._end is not None and time.monotonic() >= self._end:
            raise WaitTimeoutError(
                f"The job {self._job_id} has not ended within {self._seconds:g} s; it goes on.",
                job_id=self._job_id,
            )

    def cut(self, seconds: float) -> float:
        """So many seconds, or what is left if that is less."""
        left = seconds if self._end is None else self._end - time.monotonic()
        return max(0.0, min(seconds, left))

    def silence_seconds(self) -> float:
        """How long a stream may be silent."""
        return max(0.01, self.cut(wire.STREAM_SILENCE_SECONDS))
