"""Telling CORTEX what running jobs are doing, without any job waiting for it."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Protocol

import structlog

from ..errors import NeuronError, WorkerUnknownError
from ..models.job import JobStatus
from ..models.lease import AttemptRef, StatusUpdate, Verdict
from ..utils.retry import Backoff
from .identity import Registrar
from .lease_keeper import LeaseKeeper, LeaseLoss
from .service import Service

logger = structlog.get_logger(__name__)


LINGER_SECONDS = 0.02
"""How long news wait for company; of a job that has ended by then there is nothing to say."""


class StatusClient(Protocol):
    """What status updates ask of a CORTEX client."""

    async def update_job_statuses(
        self, worker_id: str, updates: list[StatusUpdate]
    ) -> dict[AttemptRef, Verdict]: ...


class StatusReporter(Service):
    """Sends each job's newest status, all in one call; an older one that was not sent is dropped.

    A status is news, not a fact to keep: it may come a moment later, what cannot be sent is tried
    again until the job ends, and of a job that is done in no time nothing is said at all.
    """

    name: ClassVar[str] = "status_reporter"

    def __init__(self, client: StatusClient, registrar: Registrar, keeper: LeaseKeeper) -> None:
        super().__init__()
        self._client = client
        self._registrar = registrar
        self._keeper = keeper
        self._newest: dict[AttemptRef, StatusUpdate] = {}
        self._work = asyncio.Event()

    def update(
        self,
        ref: AttemptRef,
        status: JobStatus,
        message: str = "",
        transferred: tuple[int, int] = (0, 0),
    ) -> None:
        """Say what a job does now; returns at once.

        `transferred` are the bytes of its model that are here, and those of the whole.
        """
        self._newest[ref] = StatusUpdate(ref, status, message, *transferred)
        self._work.set()

    def forget(self, ref: AttemptRef) -> None:
        """The job has ended: its result says it all."""
        self._newest.pop(ref, None)

    async def run(self) -> None:
        """Send until cancelled."""
        backoff = Backoff(initial=0.1, maximum=3.0)
        while True:
            await self._work.wait()
            await asyncio.sleep(LINGER_SECONDS)
            self._work.clear()
            try:
                await self.run_once()
            except WorkerUnknownError:
                await self._registrar.register_again()
                await asyncio.sleep(backoff.next_delay())
            except NeuronError as error:
                logger.debug("status_update_failed", error=error.message)
                await asyncio.sleep(backoff.next_delay())
            else:
                backoff.reset()

    async def run_once(self) -> None:
        """Send what is new, once; on failure it stays."""
        batch, self._newest = self._newest, {}
        if not batch:
            return
        try:
            verdicts = await self._client.update_job_statuses(
                self._registrar.worker_id, list(batch.values())
            )
        except NeuronError:
            held = set(self._keeper.refs)
            kept = {ref: update for ref, update in batch.items() if ref in held}
            self._newest = kept | self._newest
            self._work.set()
            raise
        for ref, verdict in verdicts.items():
            if verdict is Verdict.STALE:
                self._keeper.lose(ref, LeaseLoss.STALE)
            elif verdict is Verdict.CANCELLED:
                self._keeper.lose(ref, LeaseLoss.CANCELLED)
