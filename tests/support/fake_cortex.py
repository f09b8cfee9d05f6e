"""A small CORTEX over real gRPC, with switches for what a real one does only on bad days."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from mnemos.protocol.v1 import cortex_pb2 as pb
from mnemos.protocol.v1 import cortex_pb2_grpc as pb_grpc

Context = Any
Ref = tuple[str, int]


@dataclass
class FakeJob:
    """A job and what its attempts left behind."""

    spec: pb.JobSpec
    attempt: int = 0
    holder: str = ""
    request_id: str = ""
    state: str = "pending"
    renewed: bool = False
    chunks: list[pb.StreamChunk] = field(default_factory=list)
    earlier: list[pb.StreamChunk] = field(default_factory=list)
    """What attempts before the present one streamed: it goes on behind that."""
    statuses: list[str] = field(default_factory=list)
    result: pb.JobResult | None = None
    accepted: int = 0
    released: list[str] = field(default_factory=list)
    needs: list[pb.Requirements] = field(default_factory=list)
    engine_crashes: int = 0
    rows: dict[int, pb.RowResult] = field(default_factory=dict)
    """Finished rows of all attempts, for the next one."""
    cancel_asked: bool = False

    @property
    def text(self) -> str:
        """All that was streamed, over all attempts."""
        return "".join(chunk.content for chunk in [*self.earlier, *self.chunks])

    @property
    def token_ids(self) -> list[int]:
        """As `text`."""
        return [token for chunk in [*self.earlier, *self.chunks] for token in chunk.token_ids]


class FakeCortex(pb_grpc.CortexServiceServicer):
    """Keeps jobs in memory, also while its server is down. All switches may be set at any time."""

    def __init__(self) -> None:
        self.port = 0
        self.lease_seconds = 15.0
        self.jobs: dict[str, FakeJob] = {}
        self.workers: dict[str, pb.RegisterWorkerRequest] = {}
        self.registrations: list[pb.RegisterWorkerRequest] = []
        self.deregistered: list[str] = []
        self.heartbeats: list[pb.HeartbeatRequest] = []
        self.acquires: list[pb.AcquireJobRequest] = []
        self.actions: list[pb.Action] = []
        self.acknowledged_actions: list[str] = []
        self.renewals: list[pb.RenewLeasesRequest] = []
        self.watches: list[pb.WatchActionsRequest] = []
        self.token_streams = 0
        # Switches
        self.late_jobs: list[str] = []
        self.refuse_renewals = False
        self.refuse_watches = False
        self.refuse_reports = 0
        self.refuse_tokens = False
        self.lose_report_answers = 0
        self.lose_acquire_answers = 0
        self.watch_cuts = 0
        self.cut_token_stream_after: int | None = None
        self.hold_acks = False
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    # ------------------------------------------------------------ for tests

    async def up(self) -> None:
        """Serve, on the same port as before."""
        self._server = grpc.aio.server()
        pb_grpc.add_CortexServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def down(self) -> None:
        """Cut every connection; what is known stays known."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Return when `condition` holds; it is looked at after each call of the worker."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def submit(
        self,
        job_id: str,
        prompt: str = "tokens 3",
        *,
        stream: bool = False,
        timeout: int = 60,
        **more: Any,
    ) -> FakeJob:
        """Put a job in the queue."""
        inputs = [json.dumps(row) for row in more.get("inputs", ())]
        spec = pb.JobSpec(
            job_id=job_id,
            job_type=more.get("job_type", pb.JOB_TYPE_INFERENCE),
            priority=5,
            model=pb.ModelRef(
                family=more.get("family", "tiny"),
                version="1",
                runtime=more.get("runtime", "transformers"),
                runtime_config_json="{}",
            ),
            input=pb.JobInput(
                prompt="" if inputs else prompt,
                inputs_json=inputs,
                parameters_json=json.dumps(more.get("parameters", {}) | {"stream": stream}),
            ),
            timeout_seconds=timeout,
            metadata_json="{}",
        )
        job = self.jobs[job_id] = FakeJob(spec, engine_crashes=more.get("engine_crashes", 0))
        self._touch()
        return job

    def submit_late(self, job_id: str, prompt: str) -> FakeJob:
        """Queue a job that only a poll that is being cancelled will claim."""
        job = self.submit(job_id, prompt)
        job.state = "hidden"
        self.late_jobs.append(job_id)
        return job

    def act(self, kind: pb.ActionKind.ValueType, **more: Any) -> str:
        """Ask the worker for something."""
        action_id = f"act_{len(self.actions)}"
        self.actions.append(pb.Action(action_id=action_id, kind=kind, **more))
        self._touch()
        return action_id

    def forget_workers(self) -> None:
        """As after the loss of the store: nobody is known."""
        self.workers.clear()

    def expire(self, job_id: str) -> None:
        """End the lease: the job goes back to the queue, to whoever asks next."""
        job = self.jobs[job_id]
        job.state, job.holder, job.request_id = "pending", "", ""
        self._touch()

    def _touch(self) -> None:
        self._changed.set()

    # ------------------------------------------------------------ the service

    async def RegisterWorker(
        self, request: pb.RegisterWorkerRequest, context: Context
    ) -> pb.RegisterWorkerResponse:
        worker_id = request.worker_id or f"wrk_{len(self.registrations) + 1}"
        known = self.workers.get(worker_id)
        if known is not None and known.instance_id != request.instance_id:
            self._lose_attempts(worker_id)
        self.workers[worker_id] = request
        self.registrations.append(request)
        self._touch()
        return pb.RegisterWorkerResponse(worker_id=worker_id, lease=self._lease())

    async def DeregisterWorker(
        self, request: pb.DeregisterWorkerRequest, context: Context
    ) -> pb.DeregisterWorkerResponse:
        self.workers.pop(request.worker_id, None)
        self.deregistered.append(request.worker_id)
        self._lose_attempts(request.worker_id)
        self._touch()
        return pb.DeregisterWorkerResponse()

    async def Heartbeat(
        self, request: pb.HeartbeatRequest, context: Context
    ) -> pb.HeartbeatResponse:
        await self._known(request.worker_id, context)
        self.heartbeats.append(request)
        self.acknowledged_actions.extend(request.acknowledged_action_ids)
        self._touch()
        return pb.HeartbeatResponse(acknowledged=True, actions=self._open_actions())

    async def RenewLeases(
        self, request: pb.RenewLeasesRequest, context: Context
    ) -> pb.RenewLeasesResponse:
        if self.refuse_renewals:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no renewals today")
        await self._known(request.worker_id, context)
        self.renewals.append(request)
        verdicts = []
        for ref in request.jobs:
            verdict = self._verdict(ref.job_id, ref.attempt, request.worker_id)
            if verdict == pb.VERDICT_ACCEPTED:
                self.jobs[ref.job_id].renewed = True
            verdicts.append(_verdict(ref.job_id, ref.attempt, verdict))
        self._touch()
        return pb.RenewLeasesResponse(verdicts=verdicts, lease=self._lease())

    async def WatchActions(
        self, request: pb.WatchActionsRequest, context: Context
    ) -> AsyncIterator[pb.WatchActionsResponse]:
        await self._known(request.worker_id, context)
        if self.refuse_watches:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no streams today")
        self.watches.append(request)
        cuts = self.watch_cuts
        yield pb.WatchActionsResponse()
        sent: set[str] = set()
        while cuts == self.watch_cuts:
            await self._known(request.worker_id, context)
            for action in self._open_actions():
                if action.action_id not in sent:
                    sent.add(action.action_id)
                    yield pb.WatchActionsResponse(action=action)
            await self._wait_a_little()

    async def Work(
        self, request_iterator: AsyncIterator[pb.WorkRequest], context: Context
    ) -> AsyncIterator[pb.WorkResponse]:
        """As of a CORTEX from before there was such a stream."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        yield pb.WorkResponse()

    async def AcquireJob(
        self, request: pb.AcquireJobRequest, context: Context
    ) -> pb.AcquireJobResponse:
        await self._known(request.worker_id, context)
        if self.workers[request.worker_id].instance_id != request.instance_id:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"worker_replaced: Another process has registered as worker {request.worker_id}.",
            )
        self.acquires.append(request)
        self._touch()
        try:
            async with asyncio.timeout(request.wait.seconds + request.wait.nanos / 1e9):
                while not (jobs := self._claim(request)):
                    await self._wait_a_little()
        except TimeoutError:
            jobs = []
        except asyncio.CancelledError:
            if self.late_jobs:
                # The claim was committed in the very moment in which the worker hung up.
                for job_id in self.late_jobs:
                    self.jobs[job_id].state = "pending"
                self.late_jobs.clear()
                self._claim(request)
            raise
        if jobs and self.lose_acquire_answers:
            self.lose_acquire_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
        return pb.AcquireJobResponse(jobs=jobs)

    async def UpdateJobStatus(
        self, request: pb.UpdateJobStatusRequest, context: Context
    ) -> pb.UpdateJobStatusResponse:
        await self._known(request.worker_id, context)
        verdicts = []
        for update in request.updates:
            verdict = self._verdict(update.job_id, update.attempt, request.worker_id)
            if verdict != pb.VERDICT_STALE:
                name = pb.JobStatus.Name(update.status).removeprefix("JOB_STATUS_").lower()
                self.jobs[update.job_id].statuses.append(name)
            verdicts.append(_verdict(update.job_id, update.attempt, verdict))
        self._touch()
        return pb.UpdateJobStatusResponse(verdicts=verdicts)

    async def StreamResult(
        self, request_iterator: AsyncIterator[pb.StreamResultRequest], context: Context
    ) -> AsyncIterator[pb.StreamResultResponse]:
        self.token_streams += 1
        async for request in request_iterator:
            if self.refuse_tokens:
                self._touch()
                await context.abort(grpc.StatusCode.UNAVAILABLE, "no tokens now")
            await self._known(request.worker_id, context)
            acks = {}
            for chunk in request.chunks:
                verdict = self._verdict(chunk.job_id, chunk.attempt, request.worker_id)
                job = self.jobs[chunk.job_id]
                if verdict != pb.VERDICT_STALE and chunk.sequence == len(job.chunks):
                    job.chunks.append(chunk)
                    if chunk.HasField("row"):
                        job.rows[chunk.row.index] = chunk.row
                acks[chunk.job_id, chunk.attempt] = (len(job.chunks), verdict)
            self._touch()
            if self.cut_token_stream_after is not None:
                self.cut_token_stream_after -= 1
                if self.cut_token_stream_after < 0:
                    self.cut_token_stream_after = None
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the stream was cut")
            while self.hold_acks:
                await self._wait_a_little()
            yield pb.StreamResultResponse(
                acks=[
                    pb.StreamAck(job_id=job_id, attempt=attempt, next_sequence=n, verdict=verdict)
                    for (job_id, attempt), (n, verdict) in acks.items()
                ]
            )

    async def ReportResult(
        self, request: pb.ReportResultRequest, context: Context
    ) -> pb.ReportResultResponse:
        if self.refuse_reports:
            self.refuse_reports -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no reports now")
        await self._known(request.worker_id, context)
        verdicts = [
            _verdict(result.job_id, result.attempt, self._accept(result, request.worker_id))
            for result in request.results
        ]
        self._touch()
        if self.lose_report_answers:
            self.lose_report_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
        return pb.ReportResultResponse(verdicts=verdicts)

    async def ReleaseJobs(
        self, request: pb.ReleaseJobsRequest, context: Context
    ) -> pb.ReleaseJobsResponse:
        await self._known(request.worker_id, context)
        verdicts = []
        for released in request.jobs:
            verdict = self._verdict(released.job_id, released.attempt, request.worker_id)
            if verdict != pb.VERDICT_STALE:
                job = self.jobs[released.job_id]
                job.released.append(released.reason)
                if released.HasField("needs"):
                    job.needs.append(released.needs)
                job.state, job.holder, job.request_id = "pending", "", ""
            verdicts.append(_verdict(released.job_id, released.attempt, verdict))
        self._touch()
        return pb.ReleaseJobsResponse(verdicts=verdicts)

    # ------------------------------------------------------------ inside

    async def _known(self, worker_id: str, context: Context) -> None:
        if worker_id not in self.workers:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"worker_unknown: {worker_id}")

    def _lose_attempts(self, worker_id: str) -> None:
        for job in self.jobs.values():
            if job.holder == worker_id and job.state == "running":
                job.state, job.holder, job.request_id = "pending", "", ""

    async def _wait_a_little(self) -> None:
        # Many wait for one event here; a short nap keeps this fake free of bookkeeping.
        await asyncio.sleep(0.005)

    def _lease(self) -> Duration:
        lease = Duration()
        lease.FromNanoseconds(int(self.lease_seconds * 1e9))
        return lease

    def _open_actions(self) -> list[pb.Action]:
        return [a for a in self.actions if a.action_id not in self.acknowledged_actions]

    def _claim(self, request: pb.AcquireJobRequest) -> list[pb.LeasedJob]:
        held = [
            job
            for job in self.jobs.values()
            if job.state == "running" and job.request_id == request.request_id and not job.renewed
        ]
        if not held:
            held = [job for job in self.jobs.values() if job.state == "pending"]
            held = held[: request.max_jobs]
            for job in held:
                job.attempt += 1
                job.state, job.holder = "running", request.worker_id
                job.request_id, job.renewed = request.request_id, False
                job.earlier, job.chunks = [*job.earlier, *job.chunks], []
        return [
            pb.LeasedJob(
                job=job.spec,
                attempt=job.attempt,
                lease=self._lease(),
                time_left=Duration(seconds=job.spec.timeout_seconds),
                engine_crashes=job.engine_crashes,
                resume=_resume(job),
            )
            for job in held
        ]

    def _verdict(self, job_id: str, attempt: int, worker_id: str) -> pb.Verdict.ValueType:
        job = self.jobs.get(job_id)
        if job is None or job.state != "running":
            return pb.VERDICT_STALE
        if job.attempt != attempt or job.holder != worker_id:
            return pb.VERDICT_STALE
        return pb.VERDICT_CANCELLED if job.cancel_asked else pb.VERDICT_ACCEPTED

    def _accept(self, result: pb.JobResult, worker_id: str) -> pb.Verdict.ValueType:
        job = self.jobs[result.job_id]
        if job.state == "done" and job.result is not None and job.attempt == result.attempt:
            return pb.VERDICT_DUPLICATE
        verdict = self._verdict(result.job_id, result.attempt, worker_id)
        if verdict == pb.VERDICT_STALE:
            return verdict
        job.state, job.result = "done", result
        job.accepted += 1
        return pb.VERDICT_ACCEPTED


def _resume(job: FakeJob) -> pb.ResumeState | None:
    if not job.rows and not job.token_ids:
        return None
    return pb.ResumeState(rows=job.rows.values(), token_ids=job.token_ids, text=job.text)


def _verdict(job_id: str, attempt: int, verdict: pb.Verdict.ValueType) -> pb.LeaseVerdict:
    return pb.LeaseVerdict(job_id=job_id, attempt=attempt, verdict=verdict)


@asynccontextmanager
async def serving_fake_cortex() -> AsyncIterator[FakeCortex]:
    """Yield a fake CORTEX on a free port."""
    cortex = FakeCortex()
    await cortex.up()
    try:
        yield cortex
    finally:
        await cortex.down()
