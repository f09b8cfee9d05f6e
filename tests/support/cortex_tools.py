"""Short words for what CORTEX's tests do: a clock to turn, a store, a running server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import grpc.aio
import httpx2

from mnemos.cortex.errors import StorageUnavailableError
from mnemos.cortex.ids import new_id
from mnemos.cortex.notifier import LocalNotifier, worker_topic
from mnemos.cortex.records import ClaimRequest, LeasedJob, NewJob, Registration, Release
from mnemos.cortex.server import CortexServer
from mnemos.cortex.settings import CortexSettings
from mnemos.cortex.sql.postgres.opening import prepare
from mnemos.cortex.sql.postgres.store import PostgresStore
from mnemos.cortex.store import Store
from mnemos.protocol.v1 import cortex_pb2 as pb
from mnemos.protocol.v1 import cortex_pb2_grpc as rpc

T = TypeVar("T")

LEASE = 15.0


class TurnableClock:
    """A clock that stands still until a test turns it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def turn(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


StoreFactory = Callable[[], AbstractAsyncContextManager[Store]]


class StoreTools:
    """A store under test, with short words for what tests do to it."""

    def __init__(self, store: Store, clock: TurnableClock, notifier: LocalNotifier) -> None:
        self.store = store
        self.clock = clock
        self.notifier = notifier

    def new_job(self, **changes: Any) -> NewJob:
        """A small job; `max_retries` and `retryable_codes` shape its policy."""
        policy = {
            "max_retries": changes.pop("max_retries", 3),
            "initial_backoff_seconds": 1.0,
            "max_backoff_seconds": 300.0,
            "retryable_codes": changes.pop("retryable_codes", []),
        }
        fields: dict[str, Any] = {
            "job_id": new_id("job"),
            "job_type": "inference",
            "priority": 5,
            "family": "tiny",
            "version": "1",
            "runtime": "transformers",
            "runtime_config": "{}",
            "input": '{"prompt":"Hello","parameters":{}}',
            "timeout_seconds": 300,
            "retry_config": json.dumps(policy),
            "metadata": "{}",
            "request_hash": "hash",
        }
        return NewJob(**{**fields, **changes})

    async def submit(self, **changes: Any) -> str:
        """Store a job and return its id."""
        [stored] = await self.store.submit([self.new_job(**changes)])
        return stored.job_id

    async def register(
        self,
        worker_id: str = "wrk_a",
        *,
        instance: str = "one",
        runtimes: tuple[str, ...] = ("transformers",),
        job_types: tuple[str, ...] = (),
        tags: dict[str, str] | None = None,
        slots: int = 4,
    ) -> str:
        """Make a worker known."""
        capabilities = {
            "supported_runtimes": runtimes,
            "job_types": job_types,
            "max_concurrent_jobs": slots,
            "unavailable_runtimes": {},
        }
        registration = Registration(
            worker_id=worker_id,
            instance_id=instance,
            hostname="host",
            ip_address="127.0.0.1",
            version="1",
            capabilities=json.dumps(capabilities),
            resources=json.dumps({"memory_total_mb": 1000, "gpus": []}),
            tags=json.dumps(tags or {}),
        )
        await self.store.register(registration)
        return worker_id

    async def claim(
        self, worker_id: str = "wrk_a", max_jobs: int = 1, **changes: Any
    ) -> list[LeasedJob]:
        """Ask for jobs."""
        request = ClaimRequest(worker_id=worker_id, max_jobs=max_jobs, **changes)
        return list((await self.store.claim(request)).jobs)

    def handed_back(self, job_id: str, attempt: int, **needs: Any) -> Release:
        """A job that its worker hands back."""
        return Release(job_id, attempt, **needs)

    async def hold(self, **changes: Any) -> str:
        """Submit a job and let wrk_a claim it; return its id."""
        await self.register()
        job_id = await self.submit(**changes)
        [leased] = await self.claim()
        assert leased.job.job_id == job_id
        return job_id


class Cortex:
    """A running CortexServer, with an HTTP client and a worker's stub."""

    def __init__(
        self, server: CortexServer, http: httpx2.AsyncClient, channel: grpc.aio.Channel
    ) -> None:
        self.server = server
        self.http = http
        self.stub: Any = rpc.CortexServiceStub(channel)
        self.worker_id = ""

    def body(self, **changes: Any) -> dict[str, Any]:
        """A job to submit over HTTP."""
        body: dict[str, Any] = {
            "model": {"family": "tiny", "version": "1", "runtime": "transformers"},
            "input": {"prompt": "Hello", "parameters": {"max_tokens": 5}},
        }
        return {**body, **changes}

    async def submit(self, **changes: Any) -> str:
        """Submit a job; return its id."""
        answer = await self.http.post("/api/v1/jobs", json=self.body(**changes))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job_id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        """Show a job."""
        answer = await self.http.get(f"/api/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    async def register(self, **changes: Any) -> str:
        """Register a worker and remember it."""
        capabilities = pb.WorkerCapabilities(
            supported_runtimes=["transformers"], max_concurrent_jobs=8
        )
        fields: dict[str, Any] = {
            "hostname": "host",
            "ip_address": "127.0.0.1",
            "version": "1",
            "capabilities": capabilities,
            "resources": pb.SystemResources(memory_total_mb=1000, cpu_count=2),
            "instance_id": "one",
        }
        answer = await self.stub.RegisterWorker(pb.RegisterWorkerRequest(**{**fields, **changes}))
        self.worker_id = answer.worker_id
        return self.worker_id

    async def acquire(self, max_jobs: int = 1, wait: float = 5.0, **changes: Any) -> list[Any]:
        """Ask for jobs as the registered worker."""
        request = pb.AcquireJobRequest(
            worker_id=changes.pop("worker_id", self.worker_id), max_jobs=max_jobs, **changes
        )
        request.wait.FromMilliseconds(round(wait * 1000))
        return list((await self.stub.AcquireJob(request)).jobs)

    async def hold(self, **changes: Any) -> str:
        """Submit a job and acquire it."""
        if not self.worker_id:
            await self.register()
        job_id = await self.submit(**changes)
        [leased] = await self.acquire()
        assert leased.job.job_id == job_id
        return job_id

    async def complete(self, job_id: str, attempt: int = 1, answer: object = "Hi") -> Any:
        """Report a job as completed; return the verdict."""
        output = pb.JobOutput(result_json=json.dumps(answer), metadata_json="{}")
        result = pb.JobResult(
            job_id=job_id, attempt=attempt, status=pb.JOB_STATUS_COMPLETED, output=output
        )
        return await self.report(result)

    async def report(self, result: pb.JobResult) -> Any:
        """Report one result; return its verdict."""
        request = pb.ReportResultRequest(worker_id=self.worker_id, results=[result])
        [verdict] = (await self.stub.ReportResult(request)).verdicts
        return verdict.verdict

    async def chunks(self, job_id: str, *contents: str, attempt: int = 1, first: int = 0) -> Any:
        """Stream tokens; return the ack."""
        sent = [
            pb.StreamChunk(
                job_id=job_id,
                attempt=attempt,
                sequence=first + index,
                content=content,
                token_ids=[first + index],
            )
            for index, content in enumerate(contents)
        ]
        return await self._stream(sent)

    async def send_rows(self, job_id: str, rows: dict[int, str]) -> Any:
        """Stream finished rows of a first attempt; return the ack."""
        sent = [
            pb.StreamChunk(
                job_id=job_id,
                attempt=1,
                sequence=place,
                row=pb.RowResult(index=index, result_json=result),
            )
            for place, (index, result) in enumerate(rows.items())
        ]
        return await self._stream(sent)

    async def _stream(self, sent: list[pb.StreamChunk]) -> Any:
        call = self.stub.StreamResult()
        await call.write(pb.StreamResultRequest(worker_id=self.worker_id, chunks=sent))
        answer = await call.read()
        await call.done_writing()
        [ack] = answer.acks
        return ack

    async def server_waits_for(self, worker_id: str) -> None:
        """Return once a long-poll of the worker is open."""

        async def is_open() -> bool:
            return worker_topic(worker_id) in self.server.notifier.topics

        await eventually(is_open, f"{worker_id} waits for jobs")


@asynccontextmanager
async def running_cortex(settings: CortexSettings) -> AsyncIterator[Cortex]:
    async with (
        CortexServer(settings) as server,
        httpx2.AsyncClient(base_url=server.http_url, timeout=20) as http,
        grpc.aio.insecure_channel(server.grpc_address) as channel,
    ):
        yield Cortex(server, http, channel)


async def eventually(
    probe: Callable[[], Awaitable[bool]], what: str, seconds: float = 10.0
) -> None:
    pause = asyncio.Event()
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    while not await probe():
        assert clock() < end, f"not within {seconds} s: {what}"
        try:
            async with asyncio.timeout(0.02):
                await pause.wait()
        except TimeoutError:
            continue


@asynccontextmanager
async def two_replicas(url: str, **options: Any) -> AsyncIterator[list[StoreTools]]:
    """Open the stores of two replicas on one database, which the first of them makes ready."""
    await asyncio.to_thread(prepare, url)
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(2):
            notifier = LocalNotifier()
            store = await stack.enter_async_context(PostgresStore(url, notifier, **options))
            opened.append(StoreTools(store, TurnableClock(), notifier))
        yield opened


async def until_answered(call: Callable[[], Awaitable[T]]) -> T:
    """Ask again, as clients and workers do, while CORTEX says that it has no database."""
    while True:
        try:
            return await call()
        except StorageUnavailableError:
            await asyncio.sleep(0.01)
