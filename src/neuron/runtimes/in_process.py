"""An engine without a process: a runtime that cannot crash runs beside the worker's services."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ..errors import EngineCrashedError
from ..models.job import JobInput, ResumeState
from .base import BaseRuntime, Generation


class InProcessEngine:
    """Looks like an EngineClient to those who borrow it; its runtime must never block the loop."""

    pid: int | None = None

    def __init__(
        self, runtime: BaseRuntime, family: str, version: str, config: Mapping[str, Any]
    ) -> None:
        self._runtime = runtime
        self._model = (family, version, dict(config))
        self._closed = asyncio.Event()
        self._condemned: str | None = None
        self.load_seconds = 0.0
        self.runtime_started = True

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._runtime.is_model_loaded() and not self._closed.is_set()

    @property
    def memory_mb(self) -> int:
        """What the model holds."""
        return self._runtime.stats().memory_mb

    async def start(self, timeout_seconds: float) -> None:
        """Load the model; raises the runtime's NeuronError."""
        began = time.monotonic()
        async with asyncio.timeout(timeout_seconds):
            await self._runtime.load_model(*self._model)
        self.load_seconds = time.monotonic() - began

    def generate(
        self, job_input: JobInput, resume: ResumeState | None = None
    ) -> AsyncGenerator[Generation, None]:
        """Answer as the runtime does; raises EngineCrashedError after stop() or condemn()."""
        if self._closed.is_set():
            raise EngineCrashedError(self._condemned or "the engine was stopped")
        return self._runtime.generate(job_input, resume)

    def condemn(self, reason: str) -> None:
        """Take no more requests; those that run go on."""
        self._condemned = reason
        self._closed.set()

    async def stop(self, grace_seconds: float = 0.0) -> None:
        """Unload the model. May be called twice."""
        self._closed.set()
        await self._runtime.unload_model()

    async def wait_closed(self) -> None:
        """Return when it takes no more requests."""
        await self._closed.wait()
