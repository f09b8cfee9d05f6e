"""The stream that carries a worker's calls about jobs, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from cortex_tools import Cortex, eventually

from mnemos.cortex.notifier import worker_topic
from mnemos.cortex.records import (
    AttemptRef,
    Claimed,
    ClaimRequest,
    Exchange,
    Exchanged,
    RefVerdict,
)
from mnemos.cortex.sql.store import SqlStore
from mnemos.protocol.v1 import cortex_pb2 as pb


class Stream:
    """One open stream; answers may come in any order."""

    def __init__(self, call: Any, worker_id: str) -> None:
        self.call = call
        self.worker_id = worker_id
        self._number = 0
        self._came: dict[int, pb.WorkAnswer] = {}

    async def say(self, *calls: dict[str, Any]) -> list[int]:
        """Send calls in one message; return their numbers."""
        numbered = []
        for call in calls:
            self._number += 1
            numbered.append(pb.WorkCall(number=self._number, **call))
        await self.call.write(pb.WorkRequest(calls=numbered))
        return [call.number for call in numbered]

    async def answer(self, number: int) -> pb.WorkAnswer:
        """Return what the call of that number is answered."""
        async with asyncio.timeout(10):
            while number not in self._came:
                response = await self.call.read()
                assert response is not grpc.aio.EOF
                self._came |= {answer.number: answer for answer in response.answers}
        return self._came.pop(number)

    async def ask(self, **call: Any) -> pb.WorkAnswer:
        """Make one call and return its answer."""
        [number] = await self.say(call)
        return await self.answer(number)

    def acquire(self, max_jobs: int = 1, wait_seconds: float = 20.0, **more: Any) -> dict[str, Any]:
        """A claim, to be said."""
        request = pb.AcquireJobRequest(
            worker_id=self.worker_id, max_jobs=max_jobs, instance_id="one", **more
        )
        request.wait.FromMilliseconds(round(1000 * wait_seconds))
        return {"acquire": request}

    def renew(self, *job_ids: str) -> dict[str, Any]:
        """A renewal of first attempts, to be said."""
        jobs = [pb.AttemptRef(job_id=job_id, attempt=1) for job_id in job_ids]
        return {"renew": pb.RenewLeasesRequest(worker_id=self.worker_id, jobs=jobs)}

    def report(self, *job_ids: str) -> dict[str, Any]:
        """Completions of first attempts, to be said."""
        results = [
            pb.JobResult(
                job_id=job_id,
                attempt=1,
                status=pb.JOB_STATUS_COMPLETED,
                output=pb.JobOutput(result_json='"Hi"', metadata_json="{}"),
            )
            for job_id in job_ids
        ]
        return {"report": pb.ReportResultRequest(worker_id=self.worker_id, results=results)}


@asynccontextmanager
async def opened(cortex: Cortex, *, watched: bool = False) -> AsyncIterator[Stream]:
    """A worker with its stream open, and that of its actions too if it is `watched`."""
    await cortex.register()
    watch = None
    if watched:
        request = pb.WatchActionsRequest(worker_id=cortex.worker_id, instance_id="one")
        watch = cortex.stub.WatchActions(request)
        await watch.read()
    stream = Stream(cortex.stub.Work(), cortex.worker_id)
    assert not (await stream.call.read()).answers, "the first message only says that it is open"
    try:
        yield stream
    finally:
        stream.call.cancel()
        if watch is not None:
            watch.cancel()


def verdicts_of(answers: Sequence[pb.LeaseVerdict]) -> list[tuple[str, Any]]:
    return [(one.job_id, one.verdict) for one in answers]


async def test_a_result_a_renewal_and_a_claim_of_one_message_share_a_commit(
    cortex: Cortex, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Exchange] = []
    exchange = cortex.server.store.exchange

    async def noted(one: Exchange) -> Exchanged:
        told.append(one)
        return await exchange(one)

    async with opened(cortex) as stream:
        first, second, third = [await cortex.submit() for _ in range(3)]
        given = (await stream.ask(**stream.acquire(max_jobs=2))).acquired.jobs
        assert [leased.job.job_id for leased in given] == [first, second]
        monkeypatch.setattr(cortex.server.store, "exchange", noted)

        numbers = await stream.say(stream.report(first), stream.renew(second), stream.acquire())
        reported, renewed, acquired = [await stream.answer(number) for number in numbers]

    assert verdicts_of(reported.reported.verdicts) == [(first, pb.VERDICT_ACCEPTED)]
    assert verdicts_of(renewed.renewed.verdicts) == [(second, pb.VERDICT_ACCEPTED)]
    assert [leased.job.job_id for leased in acquired.acquired.jobs] == [third]
    [one] = told
    assert [report.job_id for report in one.reports] == [first]
    assert one.renewals == [AttemptRef(second, 1)]
    assert one.wanted is not None
    assert (await cortex.job(first))["status"] == "completed"


async def test_a_claim_waits_and_holds_up_nothing(cortex: Cortex) -> None:
    async with opened(cortex) as stream:
        [waiting] = await stream.say(stream.acquire())
        none = await stream.ask(**stream.renew("job_none"))
        assert verdicts_of(none.renewed.verdicts) == [("job_none", pb.VERDICT_STALE)]
        held = await cortex.submit()
        answer = await stream.answer(waiting)
        assert [leased.job.job_id for leased in answer.acquired.jobs] == [held]
        again = await stream.ask(**stream.report(held))
        assert verdicts_of(again.reported.verdicts) == [(held, pb.VERDICT_ACCEPTED)]


async def test_a_claim_that_waits_is_given_its_job_by_the_job_s_own_commit(
    cortex: Cortex, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cortex.server.store
    assert isinstance(store, SqlStore)

    async def never(_: ClaimRequest) -> Claimed:
        raise AssertionError("no commit for the claim alone")

    async def waits() -> bool:
        return bool(store._writer._riders)

    monkeypatch.setattr(store, "claim", never)
    async with opened(cortex, watched=True) as stream:
        [number] = await stream.say(stream.acquire())
        await eventually(waits, "the claim waits")
        job_id = await cortex.submit()
        answer = await stream.answer(number)
        assert [leased.job.job_id for leased in answer.acquired.jobs] == [job_id]
        assert (await stream.ask(confirm=number)).confirmed.seconds > 0, "its lease is new"


async def test_a_claim_that_is_taken_back_gets_nothing(cortex: Cortex) -> None:
    async with opened(cortex) as stream:
        [waiting] = await stream.say(stream.acquire())
        await eventually_listening(cortex)
        await stream.say({"withdraw": waiting})
        await eventually_quiet(cortex)
        job_id = await cortex.submit()
        answer = await stream.ask(**stream.acquire())
        assert [leased.job.job_id for leased in answer.acquired.jobs] == [job_id]
        assert answer.acquired.jobs[0].attempt == 1, "nobody else was given it before"


async def test_a_stream_that_breaks_takes_its_claims_back(cortex: Cortex) -> None:
    async with opened(cortex) as stream:
        await stream.say(stream.acquire(), stream.acquire())
        await eventually_listening(cortex)
    await eventually_quiet(cortex)
    job_id = await cortex.submit()

    [leased] = await cortex.acquire()

    assert (leased.job.job_id, leased.attempt) == (job_id, 1)


async def test_a_cortex_that_shuts_down_answers_and_ends_the_stream(cortex: Cortex) -> None:
    async with opened(cortex) as stream:
        [waiting] = await stream.say(stream.acquire())
        await eventually_listening(cortex)
        cortex.server.notifier.close()
        assert not (await stream.answer(waiting)).acquired.jobs
        async with asyncio.timeout(10):
            assert await stream.call.read() is grpc.aio.EOF
            assert await stream.call.code() is grpc.StatusCode.OK


async def test_one_call_is_refused_and_the_others_go_on(cortex: Cortex) -> None:
    async with opened(cortex) as stream:
        job_id = await cortex.submit()
        bad = pb.ReportResultRequest(
            worker_id=stream.worker_id, results=[pb.JobResult(job_id=job_id, attempt=1)]
        )
        stranger = pb.AcquireJobRequest(worker_id="wrk_nobody", max_jobs=1)
        numbers = await stream.say({"report": bad}, stream.acquire(), {"acquire": stranger})
        refused, acquired, unknown = [await stream.answer(number) for number in numbers]

    assert refused.refusal.status == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert refused.refusal.details.startswith("invalid_input:")
    assert [leased.job.job_id for leased in acquired.acquired.jobs] == [job_id]
    assert unknown.refusal.status == grpc.StatusCode.NOT_FOUND.value[0]
    assert unknown.refusal.details.startswith("worker_unknown:")


async def test_a_claim_s_jobs_are_confirmed_at_once_and_without_the_store(
    cortex: Cortex, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any) -> list[RefVerdict]:
        raise AssertionError("the store was asked")

    async with opened(cortex, watched=True) as stream:
        for _ in range(3):
            await cortex.submit()
        monkeypatch.setattr(cortex.server.store, "renew", never)
        acquired = await stream.ask(**stream.acquire(max_jobs=3))
        assert len(acquired.acquired.jobs) == 3

        confirmed = (await stream.ask(confirm=acquired.number)).confirmed.ToMilliseconds()
        again = (await stream.ask(confirm=acquired.number)).confirmed.ToMilliseconds()

    lease = cortex.server._settings.lease_seconds
    assert 0.9 * lease < confirmed / 1000 < lease, "the leases count from their claim"
    assert again == 0, "a second renewal is the store's"


async def test_nothing_is_confirmed_whose_worker_may_be_suspected(cortex: Cortex) -> None:
    async with opened(cortex) as stream:
        await cortex.submit()
        unwatched = await stream.ask(**stream.acquire())
        assert not (await stream.ask(confirm=unwatched.number)).confirmed.ToMilliseconds()

    async with opened(cortex, watched=True) as stream:
        await cortex.submit()
        acquired = await stream.ask(**stream.acquire())
        await cortex.register(worker_id=stream.worker_id, instance_id="two")
        assert not (await stream.ask(confirm=acquired.number)).confirmed.ToMilliseconds()


async def eventually_listening(cortex: Cortex) -> None:
    async def listens() -> bool:
        return worker_topic(cortex.worker_id) in cortex.server.notifier.topics

    await eventually(listens, "the claim waits for jobs")


async def eventually_quiet(cortex: Cortex) -> None:
    async def listens_no_more() -> bool:
        return worker_topic(cortex.worker_id) not in cortex.server.notifier.topics

    await eventually(listens_no_more, "no claim waits any more")
