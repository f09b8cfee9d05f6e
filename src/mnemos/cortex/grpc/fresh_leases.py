"""Leases that were granted a moment ago: their first renewal has nothing to extend.

A worker starts a job only after its first renewal, so that no claim's answer that was long on its
way starts one whose lease may be over. That renewal comes within milliseconds as a rule. Then the
lease stands as it was granted, whole but for that moment, and saying so needs no commit.

What could make it shorter meanwhile is suspicion, when the worker's stream of actions breaks. So
this holds only while that stream is open here: then no other CORTEX can suspect the worker, and
this one sees the stream end first.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from ..records import AttemptRef, LeasedJob

FRESH_SHARE = 0.05
"""The part of a lease for which it counts as fresh."""


class _Granted(NamedTuple):
    worker_id: str
    asked_at: float
    ends_at: float


class GrantedTogether(NamedTuple):
    """The leases that one claim was granted; they end at `ends_at` or later."""

    worker_id: str
    generation: int
    asked_at: float
    ends_at: float


class FreshLeases:
    """What this process granted and was not yet asked to renew. Times are the process's own.

    It only ever says less than is so: a lease counts from before the claim was asked of the store.
    """

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._fresh_seconds = FRESH_SHARE * lease_seconds
        self._clock = clock
        self._granted: OrderedDict[AttemptRef, _Granted] = OrderedDict()
        self._watched: Counter[str] = Counter()
        self._generation: Counter[str] = Counter()
        """How often what a worker was granted was forgotten."""

    def now(self) -> float:
        """The time, to be read before a claim."""
        return self._clock()

    @contextmanager
    def watched(self, worker_id: str) -> Iterator[None]:
        """Count a worker's leases as fresh while its stream of actions is open."""
        self._watched[worker_id] += 1
        try:
            yield
        finally:
            self._watched[worker_id] -= 1
            if not self._watched[worker_id]:
                del self._watched[worker_id]
            self.forget(worker_id)

    def forget(self, worker_id: str) -> None:
        """Let the store be asked of all leases that the worker has."""
        self._generation[worker_id] += 1
        gone = [ref for ref, lease in self._granted.items() if lease.worker_id == worker_id]
        for ref in gone:
            del self._granted[ref]

    def note(self, worker_id: str, jobs: Iterable[LeasedJob], asked_at: float) -> None:
        """Remember what a claim, asked for at `asked_at`, was granted."""
        self._forget_old()
        if worker_id not in self._watched:
            return
        for leased in jobs:
            ref = AttemptRef(leased.job.job_id, leased.job.attempt)
            self._granted[ref] = _Granted(worker_id, asked_at, asked_at + leased.lease_seconds)

    def note_together(
        self, worker_id: str, jobs: Sequence[LeasedJob], asked_at: float
    ) -> GrantedTogether | None:
        """Return what stands for all that a claim was granted; None where it cannot be fresh."""
        if worker_id not in self._watched:
            return None
        seconds = min(leased.lease_seconds for leased in jobs)
        generation = self._generation[worker_id]
        return GrantedTogether(worker_id, generation, asked_at, asked_at + seconds)

    def confirm_together(self, granted: GrantedTogether) -> float | None:
        """As confirm(), of all that a claim was granted."""
        now = self._clock()
        if granted.asked_at < now - self._fresh_seconds:
            return None
        if granted.generation != self._generation[granted.worker_id]:
            return None
        return granted.ends_at - now

    def confirm(self, worker_id: str, refs: Sequence[AttemptRef]) -> float | None:
        """How many seconds of their leases are left at least, if all are fresh and the worker's.

        Each is confirmed so once; None: the store must be asked.
        """
        self._forget_old()
        found = [self._granted.pop(ref, None) for ref in refs]
        ends = [lease.ends_at for lease in found if lease and lease.worker_id == worker_id]
        if not ends or len(ends) < len(refs):
            return None
        return min(ends) - self._clock()

    def _forget_old(self) -> None:
        oldest = self._clock() - self._fresh_seconds
        while self._granted:
            ref, lease = next(iter(self._granted.items()))
            if lease.asked_at >= oldest:
                return
            del self._granted[ref]
