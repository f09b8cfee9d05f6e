"""Which queued jobs may not run together: those that one more lost worker would end for good.

A worker is given one of them, and the next when that one has ended or run for a while. Any of the
jobs on a lost worker may have killed it; so that the one that did is parked and not its neighbours,
each of those has its last chance apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from ..state_machine import APART_SECONDS, runs_apart
from .transaction import Row, Transaction

LEFT_TO_RUN_APART_SECONDS = 1.0
"""After so long a worker asks again for a job that was left because it had another suspect."""

_HELD = """
SELECT MAX(jobs.lost_workers) AS most FROM attempts JOIN jobs ON jobs.seq = attempts.job_seq
WHERE attempts.worker_id = :worker_id AND attempts.ended_at IS NULL
    AND attempts.started_at > :since
"""


class Suspects:
    """Jobs that run apart, and which workers have one, for all claims of one transaction."""

    def __init__(self, tx: Transaction, most_lost: int) -> None:
        self._tx = tx
        self._most_lost = most_lost
        self._given: Counter[str] = Counter()
        """What workers were given in this transaction, which is not written yet."""
        self._had: dict[str, bool] = {}

    def is_one(self, job: Row) -> bool:
        """Whether the job runs apart."""
        return bool(job["lost_workers"]) and runs_apart(job["lost_workers"], self._most_lost)

    def has_one(self, worker_id: str) -> bool:
        """Whether the worker has one already that it was given a short while ago."""
        if worker_id not in self._had:
            since = self._tx.now - APART_SECONDS
            row = self._tx.one(_HELD, {"worker_id": worker_id, "since": since})
            most = row["most"] if row is not None else None
            self._had[worker_id] = runs_apart(most or 0, self._most_lost)
        return self._had[worker_id] or self._given[worker_id] > 0

    def give(self, worker_id: str, jobs: Collection[Row]) -> None:
        """Note what a worker is to have."""
        self._given[worker_id] += sum(map(self.is_one, jobs))

    def take_back(self, worker_id: str, jobs: Collection[Row]) -> None:
        """Note what it is not to have after all."""
        self._given[worker_id] -= sum(map(self.is_one, jobs))
