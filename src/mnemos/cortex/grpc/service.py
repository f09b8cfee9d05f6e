"""The contract's calls: read the message, ask the store, say what it said."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from functools import wraps
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog

from mnemos import __version__
from mnemos.protocol.v1 import cortex_pb2 as pb
from mnemos.protocol.v1 import cortex_pb2_grpc as rpc

from ..errors import CortexError
from ..ids import new_id
from ..notifier import END_TOPIC, Notifier, worker_topic
from ..prefetching import PrefetchAdvisor
from ..records import Model
from ..suspicion import Suspector
from . import incoming, outgoing
from .job_calls import JobCalls, WorkerFacingStore
from .refusals import Context, abort
from .work_stream import WorkStream

S = TypeVar("S")
Q = TypeVar("Q")
A = TypeVar("A")
_log = structlog.get_logger(__name__)


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
            await abort(context, error)
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
        self._jobs = JobCalls(store, notifier, lease_seconds=lease_seconds)
        self._advisor = PrefetchAdvisor(store)

    @_answers
    async def RegisterWorker(
        self, request: pb.RegisterWorkerRequest, context: Context
    ) -> pb.RegisterWorkerResponse:
        """Make a worker known."""
        worker_id = request.worker_id or new_id("wrk")
        self._jobs.fresh.forget(worker_id)
        registered_at = await self._store.register(incoming.registration(request, worker_id))
        runtimes = request.capabilities.supported_runtimes
        self._jobs.registered(worker_id, request.instance_id, runtimes)
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
        self._jobs.deregistered(request.worker_id, request.instance_id)
        _log.info("worker.deregistered", worker_id=request.worker_id, reason=request.reason)
        return pb.DeregisterWorkerResponse()

    @_answers
    async def Heartbeat(
        self, request: pb.HeartbeatRequest, context: Context
    ) -> pb.HeartbeatResponse:
        """Note how a worker is; repeat what it has not acknowledged."""
        actions = await self._store.heartbeat(incoming.heartbeat(request))
        on_disk = incoming.models_had(request)
        self._jobs.has_on_disk(request.worker_id, on_disk)
        return pb.HeartbeatResponse(
            acknowledged=True,
            actions=[outgoing.action(action) for action in actions],
            prefetch=await self._hints(request.worker_id, on_disk) if request.wants_hints else (),
        )

    async def _hints(self, worker_id: str, has: Collection[Model]) -> list[pb.ModelHint]:
        """What the worker had better fetch; the heartbeat counts whether that is known or not."""
        try:
            hints = await self._advisor.models_for(worker_id, has)
        except CortexError as error:
            _log.warning("heartbeat.no_hints", worker_id=worker_id, error=error.message)
            return []
        return [outgoing.model_hint(model) for model in hints]

    @_answers
    async def RenewLeases(
        self, request: pb.RenewLeasesRequest, context: Context
    ) -> pb.RenewLeasesResponse:
        """Extend leases."""
        return await self._jobs.renew(request)

    @_answers
    async def AcquireJob(
        self, request: pb.AcquireJobRequest, context: Context
    ) -> pb.AcquireJobResponse:
        """Wait for jobs that fit, and lease them."""
        return await self._jobs.acquire(request)

    @_answers
    async def UpdateJobStatus(
        self, request: pb.UpdateJobStatusRequest, context: Context
    ) -> pb.UpdateJobStatusResponse:
        """Move attempts forward."""
        return await self._jobs.update_status(request)

    @_answers
    async def ReportResult(
        self, request: pb.ReportResultRequest, context: Context
    ) -> pb.ReportResultResponse:
        """End attempts."""
        return await self._jobs.report(request)

    @_answers
    async def ReleaseJobs(
        self, request: pb.ReleaseJobsRequest, context: Context
    ) -> pb.ReleaseJobsResponse:
        """Take jobs back unfinished."""
        return await self._jobs.release(request)

    async def Work(  # type: ignore[override]  # grpc.aio takes a coroutine that writes by itself
        self, request_iterator: AsyncIterator[pb.WorkRequest], context: Context
    ) -> None:
        """Carry one worker's calls about jobs, many in a message."""
        await WorkStream(self._jobs, context.write).serve(request_iterator, self._end)

    async def _end(self) -> None:
        """Return once this CORTEX shuts down."""
        with self._notifier.subscribe(END_TOPIC) as ear:
            while not self._notifier.closed:
                ear.clear()
                await ear.wait(None)

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
            await abort(context, error)

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
                with self._jobs.fresh.watched(worker_id):
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
            await abort(context, error)
