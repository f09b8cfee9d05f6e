"""A worker without an engine: it says to CORTEX what its test tells it, over a connection of its
own. Hundreds fit into one process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import grpc
import grpc.aio

from mnemos.protocol.v1 import cortex_pb2 as pb
from mnemos.protocol.v1 import cortex_pb2_grpc as rpc

CALL_SECONDS = 30.0
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # else all channels to one address share a connection
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]

T = TypeVar("T")
Verdict: TypeAlias = "pb.Verdict.ValueType"


class Ref(NamedTuple):
    """An attempt at a job."""

    job_id: str
    attempt: int

    @classmethod
    def of(cls, leased: pb.LeasedJob) -> Ref:
        """Name what was leased."""
        return cls(leased.job.job_id, leased.attempt)


class SimWorker:
    """Registers when it is entered as a context; leaving it is a sudden death without a word.

    Calls raise grpc.aio.AioRpcError; `again` repeats one for as long as its connection breaks.
    """

    def __init__(
        self, address: str, *, slots: int = 1, tags: Mapping[str, str] | None = None
    ) -> None:
        self.worker_id = ""
        self._address = address
        self._slots = slots
        self._tags = dict(tags or {})
        self._channel: grpc.aio.Channel | None = None
        self.stub: Any = None

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._address, options=_OPTIONS)
        self.stub = rpc.CortexServiceStub(self._channel)
        self.worker_id = (await again(self._register)).worker_id
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def _register(self) -> pb.RegisterWorkerResponse:
        request = pb.RegisterWorkerRequest(
            hostname="sim",
            ip_address="127.0.0.1",
            version="1",
            capabilities=pb.WorkerCapabilities(
                supported_runtimes=["transformers"],
                max_concurrent_jobs=self._slots,
                supports_streaming=True,
            ),
            resources=pb.SystemResources(memory_total_mb=1000, cpu_count=1),
            tags=self._tags,
            instance_id="one",
        )
        answer: pb.RegisterWorkerResponse = await self.stub.RegisterWorker(
            request, timeout=CALL_SECONDS
        )
        return answer

    async def acquire(
        self, max_jobs: int = 1, wait_seconds: float = 1.0, request_id: str = ""
    ) -> list[pb.LeasedJob]:
        """Wait for jobs; the same `request_id` asks again for those of an answer that was lost."""
        request = pb.AcquireJobRequest(
            worker_id=self.worker_id, max_jobs=max_jobs, request_id=request_id
        )
        request.wait.FromMilliseconds(round(1000 * wait_seconds))
        answer = await self.stub.AcquireJob(request, timeout=wait_seconds + CALL_SECONDS)
        return list(answer.jobs)

    async def renew(self, refs: Iterable[Ref]) -> dict[Ref, Verdict]:
        """Renew leases."""
        named = [pb.AttemptRef(job_id=ref.job_id, attempt=ref.attempt) for ref in refs]
        request = pb.RenewLeasesRequest(worker_id=self.worker_id, jobs=named)
        return _by_ref((await self.stub.RenewLeases(request, timeout=CALL_SECONDS)).verdicts)

    async def say_executing(self, ref: Ref, message: str = "") -> Verdict:
        """Say that an attempt is being executed."""
        update = pb.StatusUpdate(
            job_id=ref.job_id,
            attempt=ref.attempt,
            status=pb.JOB_STATUS_EXECUTING,
            message=message,
        )
        request = pb.UpdateJobStatusRequest(worker_id=self.worker_id, updates=[update])
        answer = await self.stub.UpdateJobStatus(request, timeout=CALL_SECONDS)
        return _by_ref(answer.verdicts)[ref]

    async def report(self, ref: Ref, result: object) -> Verdict:
        """Report an attempt as completed."""
        told = pb.JobResult(
            job_id=ref.job_id,
            attempt=ref.attempt,
            status=pb.JOB_STATUS_COMPLETED,
            output=pb.JobOutput(result_json=json.dumps(result), metadata_json="{}"),
        )
        request = pb.ReportResultRequest(worker_id=self.worker_id, results=[told])
        answer = await self.stub.ReportResult(request, timeout=CALL_SECONDS)
        return _by_ref(answer.verdicts)[ref]

    async def release(self, ref: Ref, reason: str) -> Verdict:
        """Hand an attempt back."""
        told = pb.ReleasedJob(job_id=ref.job_id, attempt=ref.attempt, reason=reason)
        request = pb.ReleaseJobsRequest(worker_id=self.worker_id, jobs=[told])
        answer = await self.stub.ReleaseJobs(request, timeout=CALL_SECONDS)
        return _by_ref(answer.verdicts)[ref]

    def open_stream(self) -> SimStream:
        """Open a token stream of its own."""
        return SimStream(self.stub.StreamResult(), self.worker_id)


class SimStream:
    """One token stream, on which each message is acknowledged before the next one is sent."""

    def __init__(self, call: Any, worker_id: str) -> None:
        self._call = call
        self._worker_id = worker_id

    async def send(self, chunks: Sequence[pb.StreamChunk]) -> pb.StreamAck:
        """Send chunks of one attempt in one message; return what CORTEX says of it."""
        try:
            await self._call.write(pb.StreamResultRequest(worker_id=self._worker_id, chunks=chunks))
            answer = await self._call.read()
        except asyncio.InvalidStateError:  # grpc.aio's word for a stream that broke unnoticed
            answer = grpc.aio.EOF
        if answer is grpc.aio.EOF:
            raise StreamBrokenError
        [ack] = answer.acks
        return ack  # type: ignore[no-any-return]  # the call is untyped

    async def send_blindly(self, chunks: Sequence[pb.StreamChunk]) -> None:
        """Send chunks in one message whose answer nobody will read."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.write(pb.StreamResultRequest(worker_id=self._worker_id, chunks=chunks))

    def close(self) -> None:
        """End it at once."""
        self._call.cancel()


class StreamBrokenError(Exception):
    """A token stream ended before it answered."""


def chunk(ref: Ref, sequence: int, content: str, token_ids: Sequence[int] = ()) -> pb.StreamChunk:
    """A piece of an attempt's text."""
    return pb.StreamChunk(
        job_id=ref.job_id,
        attempt=ref.attempt,
        sequence=sequence,
        content=content,
        token_ids=token_ids,
    )


async def again(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call until its connection holds."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.02)


def _by_ref(verdicts: Iterable[pb.LeaseVerdict]) -> dict[Ref, Verdict]:
    return {Ref(told.job_id, told.attempt): told.verdict for told in verdicts}
