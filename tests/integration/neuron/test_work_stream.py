"""A worker whose calls about jobs go over one stream, and what it does while there is none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import pytest
from fake_cortex import FakeCortex
from fake_engine import FakeEngines
from google.protobuf.duration_pb2 import Duration

from mnemos.protocol.v1 import cortex_pb2 as pb
from neuron.worker import NEURONWorker

StartWorker = Callable[..., AbstractAsyncContextManager[NEURONWorker]]

ANSWERS = {
    "acquire": ("acquired", "AcquireJob"),
    "renew": ("renewed", "RenewLeases"),
    "update_status": ("status_updated", "UpdateJobStatus"),
    "report": ("reported", "ReportResult"),
    "release": ("released", "ReleaseJobs"),
}


class StreamingCortex(FakeCortex):
    """A fake that knows the stream, and counts what comes over it."""

    def __init__(self) -> None:
        super().__init__()
        self.streams = 0
        self.streamed: Counter[str] = Counter()
        self.refuse_streams = False
        self.confirms = True
        self.cut = asyncio.Event()

    async def Work(  # type: ignore[override]  # grpc.aio takes a coroutine that writes by itself
        self, request_iterator: AsyncIterator[pb.WorkRequest], context: Any
    ) -> None:
        if self.refuse_streams:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no streams today")
        self.streams += 1
        self.cut.clear()
        await context.write(pb.WorkResponse())
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(request_iterator, context))
            await self.cut.wait()
            reading.cancel()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the stream was cut")

    async def _read(self, requests: AsyncIterator[pb.WorkRequest], context: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            async for request in requests:
                for call in request.calls:
                    tasks.create_task(self._carry_out(call, context))

    async def _carry_out(self, call: pb.WorkCall, context: Any) -> None:
        kind = str(call.WhichOneof("call"))
        self.streamed[kind] += 1
        if kind == "confirm":
            lease = self._lease() if self.confirms else Duration()
            answer: dict[str, Any] = {"confirmed": lease}
        elif kind == "withdraw":
            return
        else:
            name, method = ANSWERS[kind]
            answer = {name: await getattr(self, method)(getattr(call, kind), context)}
        answers = [pb.WorkAnswer(number=call.number, **answer)]
        await context.write(pb.WorkResponse(answers=answers))
        self._touch()


@pytest.fixture
async def cortex() -> AsyncIterator[StreamingCortex]:
    cortex = StreamingCortex()
    await cortex.up()
    try:
        yield cortex
    finally:
        cortex.cut.set()
        await cortex.down()


async def run_to_the_end(cortex: FakeCortex, *job_ids: str) -> None:
    jobs = [cortex.submit(job_id, "tokens 2") for job_id in job_ids]
    await cortex.until(lambda: all(job.state == "done" for job in jobs))
    assert all(job.accepted == job.attempt == 1 for job in jobs)


async def test_all_that_is_said_about_jobs_goes_over_the_stream(
    cortex: StreamingCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker():
        await cortex.until(lambda: cortex.streamed["acquire"] > 0)
        await run_to_the_end(cortex, "job_1", "job_2")
        await cortex.until(lambda: cortex.streamed["report"] > 0)

    assert cortex.streams == 1
    assert cortex.streamed["confirm"] >= 1
    assert not cortex.renewals, "the confirmation of the claim was the first renewal"


async def test_jobs_whose_claim_is_not_confirmed_start_after_their_own_renewal(
    cortex: StreamingCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    cortex.lease_seconds = 0.8
    cortex.confirms = False
    cortex.refuse_renewals = True
    async with start_worker():
        await cortex.until(lambda: cortex.streamed["acquire"] > 0)
        job = cortex.submit("job_1", "tokens 1")
        submitted_at = asyncio.get_running_loop().time()
        await cortex.until(lambda: bool(job.released))
        waited = asyncio.get_running_loop().time() - submitted_at
        assert waited > cortex.lease_seconds / 2, "it did not wait for its renewal"
        assert engines.made == []
        cortex.refuse_renewals = False
        await cortex.until(lambda: job.state == "done")

    assert cortex.streamed["confirm"] >= 1
    assert job.renewed, "it started without a renewal"


async def test_a_stream_that_breaks_costs_no_job(
    cortex: StreamingCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    async with start_worker():
        await cortex.until(lambda: cortex.streamed["acquire"] > 0)
        job = cortex.submit("job_1", "wait")
        await cortex.until(lambda: "executing" in job.statuses)
        cortex.refuse_streams = True
        cortex.cut.set()
        engines.go.set()
        await cortex.until(lambda: job.state == "done")
        await run_to_the_end(cortex, "job_2")
        reported = cortex.streamed["report"]

        cortex.refuse_streams = False
        await cortex.until(lambda: cortex.streams == 2)
        await cortex.until(lambda: cortex.streamed["acquire"] > 1)
        await run_to_the_end(cortex, "job_3")
        await cortex.until(lambda: cortex.streamed["report"] > reported)

    assert (job.attempt, job.accepted) == (1, 1)


async def test_an_answer_that_a_broken_stream_lost_is_asked_for_again(
    cortex: StreamingCortex, start_worker: StartWorker, engines: FakeEngines
) -> None:
    cortex.lose_acquire_answers = 1
    async with start_worker():
        await cortex.until(lambda: cortex.streamed["acquire"] > 0)
        await run_to_the_end(cortex, "job_1")
