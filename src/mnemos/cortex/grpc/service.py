"""The contract's calls: read the message, ask the store, say what it said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio
import structlog

from mnemos import __version__
from mnemos.protocol.v1 import cortex_pb2 as pb
from mnemos.protocol.v1 import cortex_pb2_grpc as rpc

from ..errors import CortexError, StorageUnavailableError, WorkerNotFoundError, WorkerUnknownError
from ..ids import new_id
from ..notifier import Notifier, runtime_topic, worker_topic
from ..prefetching import PrefetchAdvisor
from ..records import ClaimRequest, Fence, LeasedJob, RefVerdict
from ..store import AttemptStore, WorkerStore
from ..suspicion import Suspector
from . import incoming, outgoing
from .fresh_leases import FreshLeases

MAX_WAIT_SECONDS = 30.0

S = TypeVar("S")
Q = TypeVar("Q")
A = TypeVar("A")
Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger(__name__)


class WorkerFacingStore(AttemptStore, WorkerStore, Protocol):
    """The part of the store that workers reach."""


async def _abort(context: Context, error: Exception) -> None:
    """End the call with the status that tells the worker what to do next."""
    if isinstance(error, WorkerUnknownError):
        text = f"worker_unknown: {error.message} Register again."
        await context.abort(grpc.StatusCode.NOT_FOUND, text)
    if isinstance(error, StorageUnavailableError):
        await context.abort(grpc.StatusCode.UNAVAILABLE, f"{error.code}: {error.message}")
    if isinstance(error, incoming.RefusedError):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"invalid_input: {error}")
    if isinstance(error, CortexError):
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{error.code}: {error.message}")
    _log.error("grpc.unhandled_error", exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, f"internal: {type(error).__name__}")


def _answers(
    method: Callable[[S, Q, Context], Coroutine[Any, Any, A]],
) -> Callable[[S, Q, Context], Coroutine[Any, Any, A]]:
    """Turn CORTEX's errors into gRPC statuses."""

    @wraps(method)
    async def answer(self: S, request: Q, context: Context) -> A:
        try:
            return await method(self, request, context)
        except (grpc.RpcError, grpc.aio.AbortError):
            raise
        except Exception as error:
            await _abort(context, error)
            raise

    return answer


class CortexService(rpc.CortexServiceServicer):
    """CortexService of cortex.proto."""

    def __init__(
        self,
        store: WorkerFacingStore,
        notifier: Notifier,
        suspector: Suspector,
        *,
        lease_seconds: float,
        sole: bool,
    ) -> None:
        self._sole = sole
        self._store = store
        self._notifier = notifier
        self._suspector = suspector
        self._lease_seconds = lease_seconds
        self._fresh = FreshLeases(lease_seconds)
        self._advisor = PrefetchAdvisor(store)
        self._runtimes: dict[tuple[str, str], tuple[str, ...]] = {}

    @_answers
    async def RegisterWorker(
        self, request: pb.RegisterWorkerRequest, context: Context
    ) -> pb.RegisterWorkerResponse:
        """Make a worker known."""
        worker_id = request.worker_id or new_id("wrk")
        self._fresh.forget(worker_id)
        registered_at = await self._store.register(incoming.registration(request, worker_id))
        runtimes = tuple(request.capabilities.supported_runtimes)
        self._runtimes[worker_id, request.instance_id] = runtimes
        _log.info("worker.registered", worker_id=worker_id, hostname=request.hostname)
        return pb.RegisterWorkerResponse(
            worker_id=worker_id,
            lease=outgoing.duration(self._lease_seconds),
            registered_at=outgoing.timestamp(registered_at),
            cortex_version=__version__,
            sole=self._sole,
        )

    @_answers
    async def DeregisterWorker(
        self, request: pb.DeregisterWorkerRequest, context: Context
    ) -> pb.DeregisterWorkerResponse:
        """Forget a worker; what it holds goes back at once."""
        reason = request.reason[: incoming.MAX_TEXT]
        await self._store.deregister(request.worker_id, reason, request.instance_id)
        self._runtimes.pop((request.worker_id, request.instance_id), None)
        _log.info("worker.deregistered", worker_id=request.worker_id, reason=request.reason)
        return pb.DeregisterWorkerResponse()

    @_answers
    async def Heartbeat(
        self, request: pb.HeartbeatRequest, context: Context
    ) -> pb.HeartbeatResponse:
        """Note how a worker is; repeat what it has not acknowledged."""
        actions = await self._store.heartbeat(incoming.heartbeat(request))
        return pb.HeartbeatResponse(
            acknowledged=True,
            actions=[outgoing.action(action) for action in actions],
            prefetch=await self._hints(request) if request.wants_hints else (),
        )

    async def _hints(self, request: pb.HeartbeatRequest) -> list[pb.ModelHint]:
        """What the worker had better fetch; the heartbeat counts whether that is known or not."""
        try:
            hints = await self._advisor.models_for(request.worker_id, incoming.models_had(request))
        except CortexError as error:
            _log.warning("heartbeat.no_hints", worker_id=request.worker_id, error=error.message)
            return []
        return [outgoing.model_hint(model) for model in hints]

    @_answers
    async def RenewLeases(
        self, request: pb.RenewLeasesRequest, context: Context
    ) -> pb.RenewLeasesResponse:
        """Extend leases; those that were granted just now stand as they are."""
        refs = [incoming.attempt_ref(ref) for ref in request.jobs]
        left = self._fresh.confirm(request.worker_id, refs)
        if left is not None:
            stand = [RefVerdict(ref.job_id, ref.attempt, Fence.ACCEPTED) for ref in refs]
            return pb.RenewLeasesResponse(
                verdicts=outgoing.verdicts(stand), lease=outgoing.duration(left)
            )
        records = await self._store.renew(request.worker_id, refs)
        return pb.RenewLeasesResponse(
            verdicts=outgoing.verdicts(records), lease=outgoing.duration(self._lease_seconds)
        )

    @_answers
    async def AcquireJob(
        self, request: pb.AcquireJobRequest, context: Context
    ) -> pb.AcquireJobResponse:
        """Wait for jobs that fit, and lease them."""
        wanted = incoming.claim_request(request)
        wait = min(max(0.0, request.wait.ToNanoseconds() / 1e9), MAX_WAIT_SECONDS)
        leased = await self._claim_or_wait(wanted, wait)
        return pb.AcquireJobResponse(jobs=[outgoing.leased_job(one) for one in leased])

    async def _claim_or_wait(
        self, wanted: ClaimRequest, wait_seconds: float
    ) -> Sequence[LeasedJob]:
        if wanted.max_jobs == 0:
            await self._store.touch_worker(wanted.worker_id)
            return []
        runtimes = await self._runtimes_of(wanted.worker_id, wanted.instance_id)
        topics = [runtime_topic(runtime) for runtime in runtimes]
        clock = asyncio.get_running_loop().time
        end = clock() + wait_seconds
        with self._notifier.subscribe(worker_topic(wanted.worker_id), *topics) as ear:
            while True:
                ear.clear()
                asked_at = self._fresh.now()
                claimed = await self._store.claim(wanted)
                self._fresh.note(wanted.worker_id, claimed.jobs, asked_at)
                left = end - clock()
                if claimed.jobs or left <= 0 or self._notifier.closed:
                    return claimed.jobs
                again = claimed.again_in_seconds
                await ear.wait(left if again is None else min(left, again))

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

    @_answers
    async def UpdateJobStatus(
        self, request: pb.UpdateJobStatusRequest, context: Context
    ) -> pb.UpdateJobStatusResponse:
        """Move attempts forward."""
        updates = [incoming.status_update(update) for update in request.updates]
        records = await self._store.update_status(request.worker_id, updates)
        return pb.UpdateJobStatusResponse(verdicts=outgoing.verdicts(records))

    @_answers
    async def ReportResult(
        self, request: pb.ReportResultRequest, context: Context
    ) -> pb.ReportResultResponse:
        """End attempts."""
        reports = [incoming.report(result) for result in request.results]
        records = await self._store.report(request.worker_id, reports)
        return pb.ReportResultResponse(verdicts=outgoing.verdicts(records))

    @_answers
    async def ReleaseJobs(
        self, request: pb.ReleaseJobsRequest, context: Context
    ) -> pb.ReleaseJobsResponse:
        """Take jobs back unfinished."""
        releases = [incoming.release(job) for job in request.jobs]
        records = await self._store.release(request.worker_id, releases)
        return pb.ReleaseJobsResponse(verdicts=outgoing.verdicts(records))

    async def StreamResult(
        self, request_iterator: AsyncIterator[pb.StreamResultRequest], context: Context
    ) -> AsyncIterator[pb.StreamResultResponse]:
        """Append tokens and rows; each batch is acknowledged once it is durable."""
        try:
            async for request in request_iterator:
                chunks = [incoming.chunk(sent) for sent in request.chunks]
                records = await self._store.append_chunks(request.worker_id, chunks)
                yield pb.StreamResultResponse(acks=outgoing.acks(records))
        except CortexError as error:
            await _abort(context, error)

    async def WatchActions(
        self, request: pb.WatchActionsRequest, context: Context
    ) -> AsyncIterator[pb.WatchActionsResponse]:
        """Deliver open actions, and then each new one the moment it is decided."""
        worker_id = request.worker_id
        delivered: set[str] = set()
        try:
            with (
                self._suspector.watching(worker_id, request.instance_id) as stream,
                self._notifier.subscribe(worker_topic(worker_id)) as ear,
            ):
                actions = await self._store.open_actions(worker_id)
                await self._suspector.note(stream)
                with self._fresh.watched(worker_id):
                    yield pb.WatchActionsResponse()
                    while not self._notifier.closed:
                        for action in actions:
                            if action.action_id not in delivered:
                                yield pb.WatchActionsResponse(action=outgoing.action(action))
                        delivered = {action.action_id for action in actions}
                        await ear.wait(None)
                        ear.clear()
                        actions = await self._store.open_actions(worker_id)
        except CortexError as error:
            await _abort(context, error)
