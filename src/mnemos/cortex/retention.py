"""The background duty that takes away what was kept long enough."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from mnemos.engram.errors import BucketNotFoundError, EngramError

from .errors import StorageUnavailableError
from .records import PrunedStep
from .store import RetentionStore

FOR_EVER = 0.0
LONGEST_INTERVAL_SECONDS = 300.0
SHORTEST_INTERVAL_SECONDS = 0.5
PAUSE_FACTOR = 4.0
"""A pause is so much longer than the step before it: a fifth of the writer's time at most."""
SHORTEST_PAUSE_SECONDS = 0.01

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one round took away."""

    logs: int = 0
    jobs: int = 0


class CountsPruned(Protocol):
    """Who wants to know what went."""

    def pruned(self, *, logs: int, jobs: int) -> None:
        """So many are gone."""


class StoredAnswers(Protocol):
    """Where big answers lie."""

    async def delete_job(self, job_id: str) -> int:
        """Remove all that a job has stored. Raises EngramError."""


class RetentionPruner:
    """Takes away logs, and then jobs, of what ended long ago; a little at a time, with pauses.

    A job goes when it ended `jobs_seconds` ago, its log when it ended `logs_seconds` ago, at the
    latest with its job; FOR_EVER keeps them. What has not ended is never touched. An answer in
    ENGRAM goes before its job, which waits for the next round where that cannot be. `run()` is a
    task of the owner's group and ends when cancelled; `run_once()` is one round.
    """

    def __init__(
        self,
        store: RetentionStore,
        answers: StoredAnswers | None = None,
        *,
        jobs_seconds: float,
        logs_seconds: float,
        numbers: CountsPruned | None = None,
    ) -> None:
        self._store = store
        self._numbers = numbers
        self._answers = answers
        self._jobs_seconds = jobs_seconds
        limits = [seconds for seconds in (jobs_seconds, logs_seconds) if seconds != FOR_EVER]
        self._logs_seconds = min(limits, default=FOR_EVER)

    @property
    def interval_seconds(self) -> float:
        """How long after one round the next begins: a tenth of what is kept, within bounds."""
        tenth = self._logs_seconds / 10
        return min(LONGEST_INTERVAL_SECONDS, max(SHORTEST_INTERVAL_SECONDS, tenth))

    async def run(self) -> None:
        """Look again and again, until cancelled. A store that fails is asked again later."""
        while self._logs_seconds != FOR_EVER:
            try:
                await self.run_once()
            except StorageUnavailableError as error:
                _log.warning("retention.storage_unavailable", error=error.message)
            await asyncio.sleep(self.interval_seconds)

    async def run_once(self) -> Pruned:
        """Take away everything that is due now."""
        logs = jobs = 0
        if self._logs_seconds != FOR_EVER:
            logs = await self._walk(self._prune_logs)
        if self._jobs_seconds != FOR_EVER:
            jobs = await self._walk(self._prune_jobs)
        if logs or jobs:
            _log.info("retention.pruned", logs=logs, jobs=jobs)
        return Pruned(logs, jobs)

    async def _walk(self, step: Callable[[int], Awaitable[PrunedStep]]) -> int:
        """Take step after step, resting in between; return how many jobs they were about."""
        clock = asyncio.get_running_loop().time
        total, position = 0, 0
        while True:
            began = clock()
            done = await step(position)
            total += done.jobs
            if done.next_seq is None:
                return total
            position = done.next_seq
            await asyncio.sleep(max(SHORTEST_PAUSE_SECONDS, PAUSE_FACTOR * (clock() - began)))

    async def _prune_logs(self, after_seq: int) -> PrunedStep:
        done = await self._store.prune_logs(self._logs_seconds, after_seq)
        if self._numbers is not None:
            self._numbers.pruned(logs=done.jobs, jobs=0)
        return done

    async def _prune_jobs(self, after_seq: int) -> PrunedStep:
        old = await self._store.find_old_jobs(self._jobs_seconds, after_seq)
        if self._answers is not None and old.stored:
            stuck = await self._remove_answers(self._answers, old.stored)
            old = replace(old, seqs=[seq for seq in old.seqs if seq not in stuck])
        done = await self._store.prune_jobs(old)
        if self._numbers is not None:
            self._numbers.pruned(logs=0, jobs=done.jobs)
        if done.groups:
            await self._store.forget_groups(done.groups)
        return done

    async def _remove_answers(
        self, answers: StoredAnswers, stored: Mapping[str, int]
    ) -> Collection[int]:
        """Return the numbers of jobs whose answers are still there."""
        left = dict(stored)
        for job_id in stored:
            try:
                with suppress(BucketNotFoundError):  # and so nothing of it is left
                    await answers.delete_job(job_id)
            except EngramError as error:
                _log.warning("retention.answer_stays", job_id=job_id, error=error.message)
                if error.retryable:  # so would the others, one after another
                    break
            else:
                del left[job_id]
        return left.values()
