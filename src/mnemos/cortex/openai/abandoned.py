"""Jobs whose client went away before they ended: nobody would read their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from ..errors import CortexError
from ..store import Store

_log = structlog.get_logger(__name__)


class Abandoned:
    """Cancels jobs for requests that have no time left to do so themselves.

    `run()` is a task of the owner's group and ends when cancelled; a job that is left then runs
    to its end unread.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._left: asyncio.Queue[str] = asyncio.Queue()

    def leave(self, job_ids: Iterable[str]) -> None:
        """Let jobs be cancelled soon; returns at once."""
        for job_id in job_ids:
            self._left.put_nowait(job_id)

    async def run(self) -> None:
        """Cancel what is left, until cancelled. A job that has ended stays as it is."""
        while True:
            job_id = await self._left.get()
            try:
                await self._store.cancel_job(job_id)
            except CortexError as error:
                _log.info("abandoned_job.not_cancelled", job_id=job_id, error=error.message)
            else:
                _log.info("abandoned_job.cancelled", job_id=job_id)
