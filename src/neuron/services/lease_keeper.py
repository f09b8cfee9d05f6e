"""Keeping the jobs in this worker's hands, and letting go before anybody else may start them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar, Protocol

import structlog

from ..clients.cortex_client import REFUSAL_AGE_SECONDS
from ..errors import CortexRefusedError, NeuronError, WorkerUnknownError
from ..models.job import LeasedJob
from ..models.lease import AttemptRef, Renewal, Verdict, ref_of
from ..utils.metrics import WorkerMetrics
from ..utils.retry import Backoff
from .identity import Registrar
from .service import Service, sleep_or_event

logger = structlog.get_logger(__name__)

SAFETY_SHARE = 0.1
"""The part of a lease that is given up, so that a job is stopped before it ends at CORTEX."""
RENEWALS_PER_LEASE = 3
HURRIED_SECONDS = 0.5
"""Between renewals while CORTEX may suspect this worker, which leaves it a second at least."""


class LeaseLoss(StrEnum):
    """Why a job must stop."""

    STALE = "stale"
    """Another attempt holds the job, or nobody does."""
    EXPIRED = "expired"
    """No renewal came through in time; CORTEX may give the job away."""
    CANCELLED = "cancelled"
    """The submitter wants it stopped; the lease itself stands."""


class RenewingClient(Protocol):
    """What lease keeping asks of a CORTEX client."""

    async def renew_leases(
        self, worker_id: str, refs: list[AttemptRef], within_seconds: float | None = None
    ) -> Renewal: ...


class Lease:
    """One attempt in this worker's hands.

    `on_loss` is called at most once, on the event loop. A lease is renewed until release().
    """

    __slots__ = ("_on_loss", "confirmed", "deadline", "lost", "ref", "seconds")

    def __init__(
        self,
        ref: AttemptRef,
        seconds: float,
        deadline: float,
        on_loss: Callable[[LeaseLoss], None],
    ) -> None:
        self.ref = ref
        self.seconds = seconds
        """How long it was said to last when the job came."""
        self.deadline = deadline
        """When it must be let go (monotonic), unless it is renewed before."""
        self.confirmed = asyncio.Event()
        """Set after the first renewal that succeeded: only now may the job start."""
        self.lost: LeaseLoss | None = None
        self._on_loss = on_loss

    def wants_renewal(self, *, all_due: bool) -> bool:
        """Whether to name it in the next call, in which `all_due` leases are, or only new ones."""
        if all_due:
            return self.lost is not LeaseLoss.STALE
        return self.lost is None and not self.confirmed.is_set()

    def lose(self, loss: LeaseLoss) -> None:
        """Tell the job to stop."""
        if self.lost is None:
            self.lost = loss
            logger.warning(
                "lease_lost", job_id=self.ref.job_id, attempt=self.ref.attempt, reason=loss.value
            )
            self._on_loss(loss)

    def close(self) -> None:
        """Tell nobody any more: job and lease would keep each other in memory."""
        self._on_loss = _nobody


def _nobody(_: LeaseLoss) -> None:
    return


def _deadline(asked_at: float, seconds: float) -> float:
    """When a lease of `seconds` must be let go that began at `asked_at` or later (monotonic)."""
    return asked_at + seconds * (1 - SAFETY_SHARE)


class LeaseKeeper(Service):
    """Renews every lease held, in one call, every third of a lease; a new one besides at once.

    While the action stream is broken CORTEX may shorten the leases to a few seconds, and does not
    say so: until the next stream stands they are renewed all the time, and then once more. Of a
    lease that ended all the same the next renewal's answer tells, and until then the local timers
    are as they were; fencing keeps what the job does meanwhile from counting.

    While nobody listens at the address of a CORTEX that is the only one, nobody can give a job
    away, and when it starts again each has a whole lease. So a refused connection extends the
    leases as a renewal would; of one that only breaks or is silent nothing follows.
    """

    name: ClassVar[str] = "lease_keeper"

    def __init__(
        self, client: RenewingClient, registrar: Registrar, metrics: WorkerMetrics | None = None
    ) -> None:
        super().__init__()
        self._client = client
        self._registrar = registrar
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._leases: dict[AttemptRef, Lease] = {}
        self._timer: asyncio.TimerHandle | None = None
        """One for all leases: it goes off when the first may end, or sooner."""
        self._timer_at = math.inf
        self._new_lease = asyncio.Event()
        self._interval = registrar.lease_seconds / RENEWALS_PER_LEASE
        self._all_due_at = 0.0
        self._suspected = False
        self._poked = False

    @property
    def refs(self) -> list[AttemptRef]:
        """Every attempt held."""
        return list(self._leases)

    def hold(self, leased: LeasedJob, on_loss: Callable[[LeaseLoss], None]) -> Lease:
        """Begin to renew a job's lease."""
        deadline = _deadline(self._loop.time(), leased.lease_seconds)
        lease = Lease(ref_of(leased), leased.lease_seconds, deadline, on_loss)
        self._leases[lease.ref] = lease
        self._watch(deadline)
        self._interval = min(self._interval, leased.lease_seconds / RENEWALS_PER_LEASE)
        self._new_lease.set()
        return lease

    def confirm(self, lease: Lease, asked_at: float) -> None:
        """Its first renewal has succeeded; it was asked for at `asked_at` (monotonic)."""
        lease.deadline = _deadline(asked_at, lease.seconds)
        self._watch(lease.deadline)
        lease.confirmed.set()

    def release(self, lease: Lease) -> None:
        """Renew no more: the job has ended and CORTEX knows it."""
        lease.close()
        if self._leases.get(lease.ref) is lease:
            del self._leases[lease.ref]

    def _watch(self, deadline: float) -> None:
        """Have the timer go off at `deadline` at the latest."""
        if deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._let_go)

    def _let_go(self) -> None:
        """Stop the jobs whose lease was not renewed in time."""
        self._timer_at = math.inf
        now = self._loop.time()
        for lease in list(self._leases.values()):
            if lease.deadline <= now:
                lease.lose(LeaseLoss.EXPIRED)
            else:
                self._watch(lease.deadline)

    def lose(self, ref: AttemptRef, loss: LeaseLoss) -> None:
        """Stop a job because another call was answered so."""
        if lease := self._leases.get(ref):
            lease.lose(loss)

    def stream_broken(self) -> None:
        """Renew everything at once and often: CORTEX may take this worker for dead."""
        self._suspected = True
        self._poke()

    def stream_opened(self) -> None:
        """Renew everything once more: what broke before can no longer shorten a lease."""
        if self._suspected:
            self._suspected = False
            self._poke()

    def _poke(self) -> None:
        self._poked = True
        self._new_lease.set()

    async def run(self) -> None:
        """Renew until cancelled."""
        backoff = Backoff(initial=0.1, maximum=1.0)
        while True:
            if not self._leases:
                await self._new_lease.wait()
                # Nothing is held but what is new, and that is renewed by itself.
                self._all_due_at = max(self._all_due_at, self._loop.time() + self._interval)
            self._new_lease.clear()
            asked_at = self._loop.time()
            try:
                await self.run_once()
            except WorkerUnknownError:
                await self._registrar.register_again()
                await asyncio.sleep(backoff.next_delay())
            except NeuronError as error:
                if self._metrics is not None:
                    self._metrics.renewal_failures.inc()
                logger.warning("lease_renewal_failed", error=error.message, jobs=len(self._leases))
                if isinstance(error, CortexRefusedError) and self._registrar.cortex_is_sole:
                    self._outlast(asked_at - REFUSAL_AGE_SECONDS)
                await asyncio.sleep(min(backoff.next_delay(), self._interval))
            else:
                backoff.reset()
                left = self._all_due_at - asyncio.get_running_loop().time()
                await sleep_or_event(self._new_lease, max(0.0, left))

    def _outlast(self, refused_at: float) -> None:
        """CORTEX did not run at `refused_at` (monotonic): no lease ends sooner than one later."""
        deadline = _deadline(refused_at, self._registrar.lease_seconds)
        for lease in self._leases.values():
            lease.deadline = max(lease.deadline, deadline)

    async def run_once(self) -> None:
        """Renew what is due, in one call: new leases, or all when their time has come."""
        if self._poked:
            self._poked = False
            self._all_due_at = 0.0
        asked_at = asyncio.get_running_loop().time()
        all_due = asked_at >= self._all_due_at
        refs = [ref for ref, lease in self._leases.items() if lease.wants_renewal(all_due=all_due)]
        if refs:
            await self._renew(refs, asked_at)
        hurried = min(self._interval, HURRIED_SECONDS)
        next_round = asked_at + (hurried if self._suspected else self._interval)
        self._all_due_at = next_round if all_due else min(self._all_due_at, next_round)

    async def _renew(self, refs: list[AttemptRef], asked_at: float) -> None:
        renewal = await self._client.renew_leases(
            self._registrar.worker_id, refs, within_seconds=max(1.0, self._interval)
        )
        self._interval = renewal.lease_seconds / RENEWALS_PER_LEASE
        for ref in refs:
            if lease := self._leases.get(ref):
                self._apply(lease, renewal, asked_at)

    def _apply(self, lease: Lease, renewal: Renewal, asked_at: float) -> None:
        verdict = renewal.verdicts.get(lease.ref, Verdict.STALE)
        if verdict is Verdict.STALE:
            lease.lose(LeaseLoss.STALE)
            return
        lease.deadline = _deadline(asked_at, renewal.lease_seconds)
        self._watch(lease.deadline)
        if verdict is Verdict.CANCELLED:
            lease.lose(LeaseLoss.CANCELLED)
        elif lease.lost is None:
            lease.confirmed.set()
