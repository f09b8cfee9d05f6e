"""Runtimes whose engines cannot start, and that are therefore not offered for a while."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import ClassVar

import structlog

from ..models.runtime import RuntimeType
from .service import Service, sleep_or_event

logger = structlog.get_logger(__name__)

MAX_FAILURES = 3
RETRY_SECONDS = 600.0


class RuntimeHealth(Service):
    """Takes a runtime out of `unavailable`'s reach once its engines failed three times in a row.

    Only failures of the runtime itself count (a broken interpreter, a package that cannot be
    imported), not those of one model. After `retry_seconds` it is offered again, on probation:
    one more failure takes it out anew. `on_change` tells CORTEX and the poller.
    """

    name: ClassVar[str] = "runtime_health"

    def __init__(
        self,
        unavailable: dict[RuntimeType, str],
        on_change: Callable[[], Awaitable[None]],
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        super().__init__()
        self._unavailable = unavailable
        self._on_change = on_change
        self._retry_seconds = retry_seconds
        self._failures: Counter[RuntimeType] = Counter()
        self._suspended: dict[RuntimeType, float] = {}
        self._changed = asyncio.Event()

    def started(self, runtime: RuntimeType) -> None:
        """An engine of it could start: all is well."""
        del self._failures[runtime]

    def failed(self, runtime: RuntimeType, reason: str) -> None:
        """An engine of it could not start, whatever its model."""
        self._failures[runtime] += 1
        if self._failures[runtime] < MAX_FAILURES or runtime in self._suspended:
            return
        logger.error("runtime_suspended", runtime=runtime.value, reason=reason)
        self._suspended[runtime] = time.monotonic() + self._retry_seconds
        self._unavailable[runtime] = (
            f"engines of the runtime {runtime.value} could not start {MAX_FAILURES} times in a "
            f"row; the last time: {reason}"
        )
        self._changed.set()

    async def run(self) -> None:
        """Tell of changes, and offer runtimes again when their time has come."""
        while True:
            due = min(self._suspended.values(), default=None)
            wait = self._retry_seconds if due is None else max(0.0, due - time.monotonic())
            if await sleep_or_event(self._changed, wait) or self._restore():
                await self._on_change()

    def _restore(self) -> bool:
        now = time.monotonic()
        over = [runtime for runtime, until in self._suspended.items() if until <= now]
        for runtime in over:
            logger.info("runtime_offered_again", runtime=runtime.value)
            del self._suspended[runtime]
            del self._unavailable[runtime]
        return bool(over)
