"""CORTEX gRPC client."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

import grpc
import structlog

from mnemos.protocol.v1 import cortex_pb2 as pb
from mnemos.protocol.v1 import cortex_pb2_grpc as pb_grpc

from ..errors import (
    ConfigurationError,
    CortexRefusedError,
    CortexUnavailableError,
    InvalidInputError,
    NeuronError,
    WorkerUnknownError,
)
from ..models.action import Action, HeartbeatAnswer
from ..models.job import JobResult, JobSpec, JobStatus, JobType, LeasedJob
from ..models.lease import AcquiredJobs, AttemptRef, ReleasedJob, Renewal, StatusUpdate, Verdict
from ..models.worker import Heartbeat, LoadedModel, WorkerInfo, WorkerRegistration, WorkerStatus
from ..utils.logging import debug_is_logged
from . import convert, convert_worker
from .cortex_security import UNPROTECTED, CortexSecurity
from .token_channel import TokenChannel
from .work_channel import WorkChannel

logger = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
SENDABLE_BYTES = 3 * 1024 * 1024
"""What one message to CORTEX may carry; its limit of 4 MiB less room for the rest."""
OFFERED_JOB_TYPES = (JobType.INFERENCE, JobType.BATCH_INFERENCE, JobType.EVALUATION)
_RESULT_OVERHEAD_BYTES = 512
"""More than a result's ids, times and numbers take."""
UNKNOWN_WORKER_PREFIX = "worker_unknown:"
REPLACED_WORKER_PREFIX = "worker_replaced:"

_CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
CONFIRM_SECONDS = 1.0
"""How long the first renewal may take; then it is asked for in the usual way."""
REFUSAL_AGE_SECONDS = 3.0
"""How old a refusal may be that a call brings: between two tries to connect there are 2.4 s."""
_REFUSED = os.strerror(errno.ECONNREFUSED)
_NOT_LET_IN = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
_UNREACHABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def translate(error: grpc.RpcError, url: str) -> NeuronError:
    """Return what a failed call means to the worker."""
    return translate_status(error.code(), error.details() or "", url)


def translate_status(code: grpc.StatusCode, details: str, url: str) -> NeuronError:
    """Return what a status that CORTEX gave means to the worker."""
    if code is grpc.StatusCode.NOT_FOUND and details.startswith(UNKNOWN_WORKER_PREFIX):
        return WorkerUnknownError(details)
    if details.startswith(REPLACED_WORKER_PREFIX):
        sentence = details.removeprefix(REPLACED_WORKER_PREFIX).strip()
        return ConfigurationError(f"{sentence} Every worker needs a NEURON_WORKER_ID of its own.")
    if code in _NOT_LET_IN:
        return ConfigurationError(
            f"CORTEX at {url} does not let this worker in ({details.rstrip('.')}); "
            "check NEURON_CORTEX_TOKEN."
        )
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidInputError(f"CORTEX refused a call: {details}")
    if code in _UNREACHABLE:
        kind = CortexRefusedError if _REFUSED in details else CortexUnavailableError
        return kind(f"CORTEX at {url} does not answer ({code.name.lower()}: {details})")
    return NeuronError(f"CORTEX at {url} refused a call ({code.name.lower()}: {details})")


class CortexClient:
    """Every call a worker makes to CORTEX.

    `timeout` is the deadline of one call in seconds; a long-poll gets its wait on top. Each call
    raises CortexUnavailableError (send it again), WorkerUnknownError (register first),
    ConfigurationError (another process took this worker's id, or its token is wrong) or another
    NeuronError.
    Cancelling a call cancels it at CORTEX too.
    """

    def __init__(
        self, url: str, timeout: float = 30, security: CortexSecurity = UNPROTECTED
    ) -> None:
        self.url = url
        self.timeout = timeout
        self._security = security
        self.instance_id = uuid4().hex
        self.last_error: str | None = "no call was made yet"
        """What the last call failed with; None after a success."""
        self.channel: grpc.aio.Channel | None = None
        self._stub: pb_grpc.CortexServiceAsyncStub | None = None
        self._work: WorkChannel | None = None
        logger.info("cortex_client_initialized", url=url)

    @property
    def stub(self) -> pb_grpc.CortexServiceAsyncStub:
        """The generated stub; connect() makes it."""
        if self._stub is None:
            raise CortexUnavailableError("the client is not connected to CORTEX")
        return self._stub

    async def connect(self) -> None:
        """Open the channel; it connects by itself, now and after every break."""
        if self.channel is None:
            self.channel = self._security.open(self.url, _CHANNEL_OPTIONS)
            self._stub = pb_grpc.CortexServiceStub(self._security.for_stub(self.channel))  # type: ignore[assignment]  # one class serves both kinds of channel
            logger.info("cortex_client_connected", url=self.url)

    async def close(self) -> None:
        """Close the channel; open calls are cancelled. May be called twice."""
        channel, self.channel, self._stub = self.channel, None, None
        if channel is not None:
            await channel.close()
            logger.info("cortex_client_closed")

    async def _call(self, make: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await make()
        except grpc.RpcError as error:
            translated = translate(error, self.url)
            self.note_error(translated)
            raise translated from error
        self.last_error = None
        return answer

    async def carry_work(self, on_open: Callable[[], None]) -> None:
        """Have the calls about jobs go over one stream, until it breaks, which raises.

        `on_open` is called once it carries them. Before and after, each is a call by itself.
        """
        work = self._work = WorkChannel(
            self.stub.Work(), lambda code, details: translate_status(code, details, self.url)
        )
        try:
            await work.run(on_open)
        finally:
            self._work = None

    async def _over_stream(self, seconds: float, **call: Any) -> pb.WorkAnswer | None:
        """Make a call, named by its keyword, over the stream; None where none is open."""
        work = self._work
        if work is None or not work.is_open:
            return None
        try:
            async with asyncio.timeout(seconds):
                answer = await work.ask(**call)
        except TimeoutError as error:
            late = CortexUnavailableError(f"CORTEX at {self.url} did not answer in {seconds:g} s")
            self.note_error(late)
            raise late from error
        except NeuronError as error:
            self.note_error(error)
            raise
        self.last_error = None
        return answer

    def note_error(self, error: NeuronError) -> None:
        """Remember that CORTEX cannot be reached; an answer, even a refusal, is contact."""
        self.last_error = error.message if isinstance(error, CortexUnavailableError) else None

    async def register_worker(
        self, registration: WorkerRegistration, worker_id: str = ""
    ) -> WorkerInfo:
        """Make the worker known; with `worker_id`, known again under its old id."""
        request = convert_worker.to_registration(
            registration, worker_id, self.instance_id, OFFERED_JOB_TYPES
        )
        answer = await self._call(
            lambda: self.stub.RegisterWorker(request, timeout=self.timeout),
        )
        logger.info("worker_registered", hostname=registration.hostname, worker_id=answer.worker_id)
        now = datetime.now(UTC)
        registered_at = (
            convert.from_timestamp(answer.registered_at)
            if answer.HasField("registered_at")
            else now
        )
        return WorkerInfo(
            worker_id=answer.worker_id,
            hostname=registration.hostname,
            status=WorkerStatus.IDLE,
            capabilities=registration.capabilities,
            last_heartbeat=now,
            registered_at=registered_at,
            updated_at=now,
            lease_seconds=convert.from_duration(answer.lease) or 15.0,
            cortex_is_sole=answer.sole,
        )

    async def deregister_worker(self, worker_id: str, reason: str = "") -> None:
        """Make CORTEX forget the worker; jobs it still holds go back to the queue."""
        request = pb.DeregisterWorkerRequest(
            worker_id=worker_id, reason=reason, instance_id=self.instance_id
        )
        await self._call(lambda: self.stub.DeregisterWorker(request, timeout=self.timeout))
        logger.info("worker_deregistered", worker_id=worker_id)

    async def send_heartbeat(
        self,
        heartbeat: Heartbeat,
        *,
        attempts: list[AttemptRef] | None = None,
        acknowledged_action_ids: list[str] | None = None,
        total_completed: int = 0,
        total_failed: int = 0,
    ) -> HeartbeatAnswer:
        """Say how the worker is; the answer repeats every action not yet acknowledged."""
        request = convert_worker.to_heartbeat(heartbeat)
        request.current_jobs.extend(convert_worker.to_refs(attempts or []))
        request.acknowledged_action_ids.extend(acknowledged_action_ids or [])
        request.total_jobs_completed = total_completed
        request.total_jobs_failed = total_failed
        request.instance_id = self.instance_id
        answer = await self._call(lambda: self.stub.Heartbeat(request, timeout=self.timeout))
        actions = [a for a in map(convert_worker.from_action, answer.actions) if a is not None]
        return HeartbeatAnswer(
            acknowledged=answer.acknowledged,
            action=actions[0].kind if actions else None,
            message=answer.message or None,
            actions=actions,
            prefetch=[convert_worker.from_hint(hint) for hint in answer.prefetch],
        )

    async def acquire_job(self, worker_id: str) -> JobSpec | None:
        """Return the next job at once, or None; acquire_jobs brings its lease along."""
        acquired = await self.acquire_jobs(worker_id, 1, wait_seconds=0)
        return acquired.jobs[0].job if acquired.jobs else None

    async def acquire_jobs(
        self,
        worker_id: str,
        max_jobs: int,
        wait_seconds: float,
        *,
        models: list[LoadedModel] | None = None,
        memory_available_mb: int = 0,
        gpu_memory_available_mb: int = 0,
        request_id: str = "",
    ) -> AcquiredJobs:
        """Wait up to `wait_seconds` for jobs and lease up to `max_jobs`.

        A repeat with the same `request_id` returns what the first call leased, if its answer was
        lost on the way.
        """
        request = pb.AcquireJobRequest(
            worker_id=worker_id,
            max_jobs=max_jobs,
            wait=convert.to_duration(wait_seconds),
            models=[convert_worker.to_loaded_model(model) for model in models or []],
            memory_available_mb=memory_available_mb,
            gpu_memory_available_mb=gpu_memory_available_mb,
            request_id=request_id or uuid4().hex,
            instance_id=self.instance_id,
        )
        deadline = wait_seconds + self.timeout
        if told := await self._over_stream(deadline, acquire=request):
            acquired = convert.from_acquired(told.acquired)
            if acquired.jobs:
                await self._confirm(acquired.jobs, told.number)
            return acquired
        answer = await self._call(lambda: self.stub.AcquireJob(request, timeout=deadline))
        return convert.from_acquired(answer)

    async def _confirm(self, jobs: list[LeasedJob], number: int) -> None:
        """Renew at once and together the leases of jobs that an answer on the stream brought.

        Where that fails, or comes too late, they are renewed like any others.
        """
        asked_at = asyncio.get_running_loop().time()
        try:
            told = await self._over_stream(CONFIRM_SECONDS, confirm=number)
        except NeuronError as error:
            logger.debug("claim_not_confirmed", error=error.message)
            return
        seconds = convert.from_duration(told.confirmed) if told is not None else 0.0
        if seconds:
            for leased in jobs:
                leased.lease_seconds = seconds
                leased.confirmed_at = asked_at

    async def renew_leases(
        self, worker_id: str, refs: list[AttemptRef], within_seconds: float | None = None
    ) -> Renewal:
        """Say that the attempts go on, all in one call."""
        request = pb.RenewLeasesRequest(worker_id=worker_id, jobs=convert_worker.to_refs(refs))
        deadline = self.timeout if within_seconds is None else min(within_seconds, self.timeout)
        if told := await self._over_stream(deadline, renew=request):
            answer = told.renewed
        else:
            answer = await self._call(lambda: self.stub.RenewLeases(request, timeout=deadline))
        return Renewal(
            convert.from_verdicts(answer.verdicts), convert.from_duration(answer.lease) or 15.0
        )

    async def watch_actions(self, worker_id: str) -> AsyncIterator[Action | None]:
        """Yield None once the stream is open, then each action the moment it is decided.

        Ends or raises when the stream breaks; the caller opens the next one.
        """
        call = self.stub.WatchActions(
            pb.WatchActionsRequest(worker_id=worker_id, instance_id=self.instance_id)
        )
        try:
            async for message in call:
                if not message.HasField("action"):
                    yield None
                elif action := convert_worker.from_action(message.action):
                    yield action
        except grpc.RpcError as error:
            raise translate(error, self.url) from error
        finally:
            call.cancel()

    async def update_job_status(self, job_id: str, status: JobStatus, attempt: int = 1) -> Verdict:
        """Move one running job to another state."""
        ref = AttemptRef(job_id, attempt)
        verdicts = await self.update_job_statuses("", [StatusUpdate(ref, status)])
        return verdicts.get(ref, Verdict.ACCEPTED)

    async def update_job_statuses(
        self, worker_id: str, updates: list[StatusUpdate]
    ) -> dict[AttemptRef, Verdict]:
        """Move running jobs to other states, all in one call."""
        request = pb.UpdateJobStatusRequest(
            worker_id=worker_id, updates=[convert.to_status_update(update) for update in updates]
        )
        if told := await self._over_stream(self.timeout, update_status=request):
            answer = told.status_updated
        else:
            answer = await self._call(
                lambda: self.stub.UpdateJobStatus(request, timeout=self.timeout)
            )
        for update in updates:
            logger.debug("job_status_updated", job_id=update.ref.job_id, status=update.status.value)
        return convert.from_verdicts(answer.verdicts)

    def open_token_channel(self, worker_id: str) -> TokenChannel:
        """Open the stream that carries tokens; it connects when first used."""
        return TokenChannel(self.stub.StreamResult(), worker_id, lambda e: translate(e, self.url))

    async def report_result(self, result: JobResult) -> Verdict:
        """Report one ended attempt."""
        verdicts = await self.report_results(result.worker_id, [result])
        return verdicts.get(AttemptRef(result.job_id, result.attempt), Verdict.STALE)

    async def report_results(
        self, worker_id: str, results: list[JobResult]
    ) -> dict[AttemptRef, Verdict]:
        """Report ended attempts, all in one call."""
        request = pb.ReportResultRequest(
            worker_id=worker_id, results=[convert.to_result(result) for result in results]
        )
        if told := await self._over_stream(self.timeout, report=request):
            answer = told.reported
        else:
            answer = await self._call(lambda: self.stub.ReportResult(request, timeout=self.timeout))
        if debug_is_logged():
            for result in results:
                logger.debug(
                    "job_result_reported", job_id=result.job_id, status=result.status.value
                )
        return convert.from_verdicts(answer.verdicts)

    async def release_jobs(
        self, worker_id: str, jobs: list[ReleasedJob]
    ) -> dict[AttemptRef, Verdict]:
        """Hand jobs back unfinished; it costs them no retry."""
        request = pb.ReleaseJobsRequest(
            worker_id=worker_id, jobs=[convert.to_released(job) for job in jobs]
        )
        if told := await self._over_stream(self.timeout, release=request):
            answer = told.released
        else:
            answer = await self._call(lambda: self.stub.ReleaseJobs(request, timeout=self.timeout))
        return convert.from_verdicts(answer.verdicts)


def result_size(result: JobResult) -> int:
    """Return about how many bytes the result takes on the wire."""
    size = _RESULT_OVERHEAD_BYTES + len((result.error or "").encode(errors="backslashreplace"))
    if result.error_details is not None:
        size += len(convert.encode_json(result.error_details.model_extra))
    if (output := result.output) is not None:
        parts = (output.result, output.metadata, output.metrics)
        size += sum(convert.json_size(part) for part in parts)
    return size
