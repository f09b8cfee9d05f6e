"""Who this worker is to CORTEX, and becoming known again when CORTEX forgot it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from ..errors import (
    ConfigurationError,
    CortexUnavailableError,
    InvalidInputError,
    NeuronError,
)
from ..models.worker import WorkerInfo, WorkerRegistration
from ..utils.retry import Backoff

logger = structlog.get_logger(__name__)

RegistrationBuilder = Callable[[], Awaitable[WorkerRegistration]]


class RegisteringClient(Protocol):
    """What registration asks of a CORTEX client."""

    async def register_worker(
        self, registration: WorkerRegistration, worker_id: str = ""
    ) -> WorkerInfo: ...


class Registrar:
    """Holds the worker's id and lease, and registers, however many ask, once at a time."""

    def __init__(
        self,
        client: RegisteringClient,
        build: RegistrationBuilder,
        *,
        wanted_id: str = "",
    ) -> None:
        self.worker_id = wanted_id
        self.lease_seconds = 15.0
        self.cortex_is_sole = False
        self.registered = False
        self._client = client
        self._build = build
        self.on_registered: Callable[[WorkerInfo], None] | None = None
        self._lock = asyncio.Lock()
        self._generation = 0

    async def register(self) -> None:
        """Register, trying again for as long as CORTEX cannot be reached.

        Raises:
            ConfigurationError: CORTEX does not take a worker with these settings.
        """
        backoff = Backoff(initial=0.2, maximum=5.0)
        while True:
            try:
                await self._register_once()
            except CortexUnavailableError as error:
                delay = backoff.next_delay()
                logger.warning("waiting_for_cortex", error=error.message, retry_in=round(delay, 2))
                await asyncio.sleep(delay)
            except InvalidInputError as error:
                raise ConfigurationError(error.message) from error
            else:
                return

    async def register_again(self) -> None:
        """Tell CORTEX anew who this worker is; all who ask meanwhile share one flight.

        A failure is logged only: whoever needed it will find the worker unknown again.
        """
        generation = self._generation
        async with self._lock:
            if generation != self._generation:
                return
            logger.warning("registering_again", worker_id=self.worker_id)
            try:
                await self._register_once()
            except NeuronError as error:
                self.registered = False
                logger.warning("registration_failed", error=error.message)

    async def _register_once(self) -> None:
        info = await self._client.register_worker(await self._build(), self.worker_id)
        self._generation += 1
        self.worker_id = info.worker_id
        self.lease_seconds = info.lease_seconds
        self.cortex_is_sole = info.cortex_is_sole
        self.registered = True
        if self.on_registered is not None:
            self.on_registered(info)
