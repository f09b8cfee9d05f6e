"""Keeping the stream open over which the calls about jobs go."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar, Protocol

import structlog

from ..errors import CortexUnavailableError, NeuronError
from ..utils.retry import Backoff
from .service import Service

logger = structlog.get_logger(__name__)

NOT_OFFERED_SECONDS = 60.0
"""After so long a CORTEX that knew no such stream is asked again: it may be another one."""
FIRST_TRY_SECONDS = 1.0
"""So long a worker that starts waits for it, lest its first long poll go by itself."""
STEADY_SECONDS = 5.0
"""A stream that broke sooner makes the next one wait longer."""


class StreamingClient(Protocol):
    """What this asks of a CORTEX client."""

    async def carry_work(self, on_open: Callable[[], None]) -> None: ...


class WorkStreamService(Service):
    """Opens the stream, again and again with backoff; without it each call goes by itself."""

    name: ClassVar[str] = "work_stream"

    def __init__(self, client: StreamingClient) -> None:
        super().__init__()
        self._client = client
        self._opened_at = math.inf
        self._tried = asyncio.Event()

    async def wait_tried(self) -> None:
        """Return when it is open, or is known not to be; in a moment at the latest."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_TRY_SECONDS):
                await self._tried.wait()

    async def run(self) -> None:
        """Keep it open until cancelled."""
        backoff = Backoff(initial=0.1, maximum=3.0)
        clock = asyncio.get_running_loop().time
        while True:
            self._opened_at = math.inf
            try:
                await self._client.carry_work(self._note_open)
            except CortexUnavailableError as error:
                logger.debug("work_stream_broken", error=error.message)
                if clock() - self._opened_at > STEADY_SECONDS:
                    backoff.reset()
                self._tried.set()
                await asyncio.sleep(backoff.next_delay())
            except NeuronError as error:
                logger.info("work_stream_not_offered", error=error.message)
                self._tried.set()
                await asyncio.sleep(NOT_OFFERED_SECONDS)

    def _note_open(self) -> None:
        self._opened_at = asyncio.get_running_loop().time()
        self._tried.set()
        logger.info("work_stream_opened")
