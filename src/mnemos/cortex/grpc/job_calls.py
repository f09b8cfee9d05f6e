"""What workers say about jobs, however it comes, and what they are answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, Protocol

from mnemos.protocol.v1 import cortex_pb2 as pb

from ..errors import WorkerNotFoundError, WorkerUnknownError
from ..notifier import Notifier, Subscription, runtime_topic, worker_topic
from ..records import (
    AttemptRef,
    Claimed,
    ClaimRequest,
    Exchange,
    Exchanged,
    Fence,
    LeasedJob,
    Model,
    RefVerdict,
)
from ..store import AttemptStore, WorkerStore
from . import incoming, outgoing
from .fresh_leases import FreshLeases

MAX_WAIT_SECONDS = 30.0


class WorkerFacingStore(AttemptStore, WorkerStore, Protocol):
    """The part of the store that workers reach."""


class Ear(NamedTuple):
    """What a claim that waits hears of jobs."""

    told: Subscription
    topics: Sequence[str]


class JobCalls:
    """The contract's calls about jobs. Each raises what the store raises, or RefusedError."""

    def __init__(
        self, store: WorkerFacingStore, notifier: Notifier, *, lease_seconds: float
    ) -> None:
        self._store = store
        self._notifier = notifier
        self._lease_seconds = lease_seconds
        self.fresh = FreshLeases(lease_seconds)
        self._runtimes: dict[tuple[str, str], tuple[str, ...]] = {}
        self._on_disk: dict[str, Collection[Model]] = {}

    def registered(self, worker_id: str, instance_id: str, runtimes: Sequence[str]) -> None:
        """A worker's process said what it offers."""
        self._runtimes[worker_id, instance_id] = tuple(runtimes)

    def deregistered(self, worker_id: str, instance_id: str) -> None:
        """It is gone."""
        self._runtimes.pop((worker_id, instance_id), None)
        self._on_disk.pop(worker_id, None)

    def has_on_disk(self, worker_id: str, models: Collection[Model]) -> None:
        """A worker said which models' files it has."""
        self._on_disk[worker_id] = models

    def claim_request(self, request: pb.AcquireJobRequest) -> ClaimRequest:
        """Read what a worker asks for."""
        return incoming.claim_request(request, self._on_disk.get(request.worker_id, ()))

    # ------------------------------------------------------------ jobs for a worker

    async def acquire(self, request: pb.AcquireJobRequest) -> pb.AcquireJobResponse:
        """Wait for jobs that fit, and lease them."""
        wanted = self.claim_request(request)
        if wanted.max_jobs == 0:
            await self._store.touch_worker(wanted.worker_id)
            return pb.AcquireJobResponse()
        jobs, asked_at = await self.wait_for_jobs(wanted, wait_seconds(request))
        self.fresh.note(wanted.worker_id, jobs, asked_at)
        return leased(jobs)

    async def wait_for_jobs(
        self, wanted: ClaimRequest, seconds: float
    ) -> tuple[Sequence[LeasedJob], float]:
        """Lease jobs that fit, as soon as there are any; and when they were asked of the store."""
        runtimes = await self._runtimes_of(wanted.worker_id, wanted.instance_id)
        with self._listening(wanted, runtimes) as ear:
            return await self._claim_or_wait(wanted, seconds, ear)

    def listening(self, wanted: ClaimRequest | None) -> AbstractContextManager[Ear | None]:
        """Hear of jobs from now on; None where it is not known here which ones would fit."""
        if wanted is None:
            return nullcontext()
        runtimes = self._runtimes.get((wanted.worker_id, wanted.instance_id))
        return nullcontext() if runtimes is None else self._listening(wanted, runtimes)

    async def wait_on(
        self, wanted: ClaimRequest, seconds: float, ear: Ear, claimed: Claimed
    ) -> tuple[Sequence[LeasedJob], float]:
        """As wait_for_jobs(), after a claim that found nothing since `ear` listens."""
        return await self._claim_or_wait(wanted, seconds, ear, claimed)

    @contextmanager
    def _listening(self, wanted: ClaimRequest, runtimes: Iterable[str]) -> Iterator[Ear]:
        topics = [runtime_topic(runtime) for runtime in runtimes]
        with self._notifier.subscribe(worker_topic(wanted.worker_id), *topics) as told:
            yield Ear(told, topics)

    async def _claim_or_wait(
        self, wanted: ClaimRequest, seconds: float, ear: Ear, claimed: Claimed | None = None
    ) -> tuple[Sequence[LeasedJob], float]:
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        asked_at = self.fresh.now()
        while True:
            if claimed is None:
                ear.told.clear()
                asked_at = self.fresh.now()
                claimed = await self._store.claim(wanted)
            left = end - clock()
            if claimed.jobs or left <= 0 or self._notifier.closed:
                return claimed.jobs, asked_at
            again = claimed.again_in_seconds
            heard = ear.told.wait(left if again is None else min(left, again))
            came = await self._store.claim_along(wanted, ear.topics, heard)
            if came is not None and came[0].jobs:
                return came[0].jobs, came[1]
            claimed = None

    async def _runtimes_of(self, worker_id: str, instance_id: str) -> tuple[str, ...]:
        """What a worker's process offers; read where it registered at another CORTEX, or before."""
        key = worker_id, instance_id
        if key not in self._runtimes:
            try:
                worker = await self._store.get_worker(worker_id)
            except WorkerNotFoundError as error:
                raise WorkerUnknownError(worker_id) from error
            told = json.loads(worker.capabilities)
            self._runtimes[key] = tuple(told["supported_runtimes"])
        return self._runtimes[key]

    # ------------------------------------------------------------ what became of jobs

    async def renew(self, request: pb.RenewLeasesRequest) -> pb.RenewLeasesResponse:
        """Extend leases; those that were granted just now stand as they are."""
        refs = [incoming.attempt_ref(ref) for ref in request.jobs]
        return self.confirmed(request.worker_id, refs) or self.renewed(
            await self._store.renew(request.worker_id, refs)
        )

    def confirmed(
        self, worker_id: str, refs: Sequence[AttemptRef]
    ) -> pb.RenewLeasesResponse | None:
        """Answer a renewal of leases that were granted just now; None: the store must be asked."""
        left = self.fresh.confirm(worker_id, refs)
        if left is None:
            return None
        stand = [RefVerdict(ref.job_id, ref.attempt, Fence.ACCEPTED) for ref in refs]
        return pb.RenewLeasesResponse(
            verdicts=outgoing.verdicts(stand), lease=outgoing.duration(left)
        )

    def renewed(self, records: Sequence[RefVerdict]) -> pb.RenewLeasesResponse:
        """Answer a renewal as the store did."""
        return pb.RenewLeasesResponse(
            verdicts=outgoing.verdicts(records), lease=outgoing.duration(self._lease_seconds)
        )

    async def update_status(self, request: pb.UpdateJobStatusRequest) -> pb.UpdateJobStatusResponse:
        """Move attempts forward."""
        updates = [incoming.status_update(update) for update in request.updates]
        records = await self._store.update_status(request.worker_id, updates)
        return pb.UpdateJobStatusResponse(verdicts=outgoing.verdicts(records))

    async def report(self, request: pb.ReportResultRequest) -> pb.ReportResultResponse:
        """End attempts."""
        reports = [incoming.report(result) for result in request.results]
        return reported(await self._store.report(request.worker_id, reports))

    async def release(self, request: pb.ReleaseJobsRequest) -> pb.ReleaseJobsResponse:
        """Take jobs back unfinished."""
        releases = [incoming.release(job) for job in request.jobs]
        records = await self._store.release(request.worker_id, releases)
        return pb.ReleaseJobsResponse(verdicts=outgoing.verdicts(records))

    async def exchange(self, told: Exchange) -> Exchanged:
        """Do what one worker says at one time in one commit."""
        return await self._store.exchange(told)


def wait_seconds(request: pb.AcquireJobRequest) -> float:
    """How long a worker waits for jobs."""
    return min(max(0.0, request.wait.ToNanoseconds() / 1e9), MAX_WAIT_SECONDS)


def leased(jobs: Sequence[LeasedJob]) -> pb.AcquireJobResponse:
    """The jobs that a worker is given."""
    return pb.AcquireJobResponse(jobs=[outgoing.leased_job(one) for one in jobs])


def reported(records: Sequence[RefVerdict]) -> pb.ReportResultResponse:
    """What became of results."""
    return pb.ReportResultResponse(verdicts=outgoing.verdicts(records))
