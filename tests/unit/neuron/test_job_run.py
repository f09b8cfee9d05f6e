"""An attempt that is stopped, in all the ways there are, by whom and whenever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from neuron.models.job import JobInput, JobOutput, JobSpec, JobStatus, LeasedJob, ModelConfig
from neuron.models.lease import Verdict
from neuron.runtimes.base import Generation
from neuron.services.job_run import JobRun
from neuron.services.job_work import JobServices
from neuron.services.lease_keeper import LeaseLoss
from neuron.services.outcomes import Dropped, Ended, HandedBack, StopReason
from neuron.services.token_streamer import TokenStream
from neuron.utils.metrics import WorkerMetrics


class Stream:
    """Tokens on their way to CORTEX."""

    closed = False

    async def send(self, *_: Any) -> None:
        return

    def end(self, _metadata: Any) -> None:
        return

    def close(self) -> None:
        self.closed = True


class Worker:
    """All that an attempt asks of a worker; its engine hangs until it may go on."""

    def __init__(self) -> None:
        self.go, self.runs = asyncio.Event(), asyncio.Event()
        self.cancelled = 0
        self.reported: list[Any] = []
        self.deliver = asyncio.Event()
        self.deliver.set()
        self.freed = 0
        self.lose: Callable[[LeaseLoss], None] = lambda _: None
        quiet = SimpleNamespace(update=lambda *_: None, forget=lambda _: None)
        self.services = cast(
            JobServices,
            SimpleNamespace(
                worker_id=lambda: "wrk_1",
                leases=SimpleNamespace(hold=self.hold, release=lambda _: None),
                engines=SimpleNamespace(
                    is_warm=lambda _: True, use=self.use, digest_of=lambda _: "sha256:abc"
                ),
                statuses=quiet,
                tokens=None,
                results=SimpleNamespace(
                    report=self.report, release=self.report, drop=self.reported.append
                ),
                unavailable_runtimes={},
                metrics=WorkerMetrics(),
                models=None,
                references=SimpleNamespace(resolve=self.resolve),
                max_batch_size=1,
            ),
        )

    def hold(self, _leased: LeasedJob, on_loss: Callable[[LeaseLoss], None]) -> Any:
        self.lose = on_loss
        return SimpleNamespace(confirmed=self.go_ahead())

    def open_stream(self, run: JobRun) -> Stream:
        stream = Stream()
        run._work.stream = cast(TokenStream, stream)
        return stream

    def go_ahead(self) -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        return event

    async def resolve(self, job_input: JobInput) -> JobInput:
        return job_input

    @asynccontextmanager
    async def use(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(generate=self.generate)

    async def generate(self, *_: Any) -> AsyncGenerator[Generation, None]:
        try:
            self.runs.set()
            await self.go.wait()
            yield Generation("a", [1], JobOutput(result="a"))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def report(self, report: Any, stream: Any = None) -> Verdict:
        await self.deliver.wait()
        self.reported.append(report)
        return Verdict.ACCEPTED

    def free(self) -> None:
        self.freed += 1

    def run(self, **given: Any) -> JobRun:
        job = JobSpec(
            job_id="job_1",
            model=ModelConfig(family="echo", version="1", runtime="echo"),
            input=JobInput(prompt="a"),
        )
        plain = {"lease_seconds": 15, "time_left_seconds": 60} | given
        return JobRun(LeasedJob(job=job, attempt=1, **plain), self.services, self.free)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (StopReason.CANCELLED, Ended),
        (StopReason.HANDED_BACK, HandedBack),
        (StopReason.LEASE_EXPIRED, HandedBack),
        (StopReason.STALE, Dropped),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
async def test_a_stop_ends_the_work_and_its_outcome_is_still_delivered(
    reason: StopReason, kind: type, *, begun: bool
) -> None:
    worker = Worker()
    run = worker.run()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        if not begun:
            run.stop(reason)
        task = group.create_task(run.run())
        if begun:
            await worker.runs.wait()
            run.stop(reason)

    assert isinstance(task.result(), kind)
    assert task.cancelling() == 0
    assert worker.cancelled == begun
    assert len(worker.reported) == 1
    assert worker.freed == 1


async def test_a_stop_while_the_result_is_delivered_changes_nothing() -> None:
    worker = Worker()
    worker.deliver.clear()
    run = worker.run()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(run.run())
        worker.go.set()
        while run.outcome is None:  # noqa: ASYNC110 - an outcome has no event
            await asyncio.sleep(0)
        run.stop(StopReason.STALE)
        worker.deliver.set()

    assert task.result() == Ended(JobStatus.COMPLETED, output=JobOutput(result="a"))


@pytest.mark.parametrize("has_ended", [True, False])
async def test_a_lost_attempt_keeps_its_tokens_only_if_it_has_ended(*, has_ended: bool) -> None:
    worker = Worker()
    worker.deliver.clear()
    run = worker.run()
    stream = worker.open_stream(run)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(run.run())
        await worker.runs.wait()
        if has_ended:
            worker.go.set()
            while run.outcome is None:  # noqa: ASYNC110 - an outcome has no event
                await asyncio.sleep(0)
        worker.lose(LeaseLoss.STALE)
        closed_then = stream.closed
        worker.deliver.set()

    assert closed_then == (not has_ended)


@pytest.mark.parametrize("stopped_too", [True, False])
async def test_a_cancelled_run_is_dropped_without_a_word(*, stopped_too: bool) -> None:
    worker = Worker()
    run = worker.run()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(run.run())
        await worker.runs.wait()
        if stopped_too:
            run.stop(StopReason.HANDED_BACK)
        task.cancel()

    assert task.cancelled()
    assert worker.reported == []
    assert (worker.cancelled, worker.freed) == (1, 1)


async def test_a_timeout_is_told_from_a_stop() -> None:
    worker = Worker()
    async with asyncio.timeout(5):
        outcome = await worker.run(time_left_seconds=0.01).run()

    assert isinstance(outcome, Ended)
    assert outcome.status is JobStatus.TIMEOUT


async def test_a_stop_and_a_timeout_at_once_are_a_stop() -> None:
    worker = Worker()
    run = worker.run(time_left_seconds=0.01)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(run.run())
        await worker.runs.wait()
        run.stop(StopReason.HANDED_BACK)

    assert isinstance(task.result(), HandedBack)
