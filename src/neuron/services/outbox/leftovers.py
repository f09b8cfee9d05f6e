"""Delivering what an earlier process of this worker left, before CORTEX gives its jobs away."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from ...errors import CortexUnavailableError, NeuronError
from ...models.job import JobResult, StreamChunk
from ...models.lease import AttemptRef, Renewal
from ..identity import Registrar
from ..result_reporter import ResultReporter
from ..token_streamer import TokenStreamer
from .changes import LeftBehind, Report

logger = structlog.get_logger(__name__)

PATIENCE_SECONDS = 10.0
"""How long CORTEX may take to judge everything while it answers at all."""
STORING_SECONDS = 60.0
"""How long ENGRAM may take besides for answers that go there."""


class LeaseClient(Protocol):
    """What delivering asks of a CORTEX client."""

    async def renew_leases(
        self, worker_id: str, refs: list[AttemptRef], within_seconds: float | None = None
    ) -> Renewal: ...


class Leftovers:
    """Sends reports, each behind its chunks, under the id that the earlier process had.

    CORTEX takes them like any other for as long as the attempts stand; a new process that has
    registered under that id ends them. So this comes first.
    """

    def __init__(
        self,
        client: LeaseClient,
        registrar: Registrar,
        tokens: TokenStreamer,
        results: ResultReporter,
    ) -> None:
        self._client = client
        self._registrar = registrar
        self._tokens = tokens
        self._results = results
        self._sending: set[asyncio.Task[None]] = set()

    async def deliver(self, found: LeftBehind, tasks: asyncio.TaskGroup) -> None:
        """Return when CORTEX has judged everything, however long it is out of reach.

        What it has not judged within PATIENCE_SECONDS although it answers goes on in `tasks`; while
        answers are on their way to ENGRAM it has STORING_SECONDS.
        """
        if not found.refs:
            return
        self._sending = waiting = {
            tasks.create_task(self._deliver_one(ref, found), name=f"leftover {ref.job_id}")
            for ref in found.refs
        }
        began = asyncio.get_running_loop().time()
        answers = await self._hold_leases(found.refs)
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=PATIENCE_SECONDS)
            answered, answers = answers, await self._hold_leases(found.refs)
            if waiting and answered and answers and not self._is_storing(began):
                logger.warning("leftovers_not_delivered", count=len(waiting))
                return
        logger.info("leftovers_delivered", count=len(found.refs))

    async def stop(self) -> None:
        """Give up what is not delivered; it stays in the outbox. May be called twice."""
        for task in self._sending:
            task.cancel()
        if self._sending:
            await asyncio.wait(self._sending)

    def _is_storing(self, began: float) -> bool:
        late = asyncio.get_running_loop().time() - began > STORING_SECONDS
        return self._results.storing > 0 and not late

    async def _hold_leases(self, refs: list[AttemptRef]) -> bool:
        """Let no lease run out meanwhile, if CORTEX can be reached; return whether it can."""
        try:
            await self._client.renew_leases(
                self._registrar.worker_id, refs, within_seconds=PATIENCE_SECONDS
            )
        except CortexUnavailableError:
            return False
        except NeuronError as error:
            logger.info("leftovers_leases_gone", error=error.message)
        return True

    async def _deliver_one(self, ref: AttemptRef, found: LeftBehind) -> None:
        report, chunks = found.reports.get(ref), found.chunks.get(ref)
        if chunks:
            await self._send_chunks(ref, chunks)
        if report is None:
            self._results.drop(ref)
        else:
            await self._send_report(ref, report)

    async def _send_chunks(self, ref: AttemptRef, chunks: list[StreamChunk]) -> None:
        stream = self._tokens.reopen(ref, _gapless(chunks))
        try:
            await stream.done.wait()
        finally:
            stream.close()

    async def _send_report(self, ref: AttemptRef, report: Report) -> None:
        if isinstance(report, JobResult):
            verdict = await self._results.report(report)
        else:
            verdict = await self._results.release(report)
        logger.info(
            "leftover_judged", job_id=ref.job_id, attempt=ref.attempt, verdict=verdict.value
        )


def _gapless(chunks: list[StreamChunk]) -> list[StreamChunk]:
    """Return the chunks up to the first that the disk had no room for."""
    first = chunks[0].sequence
    return [chunk for index, chunk in enumerate(chunks) if chunk.sequence == first + index]
