"""Small promises of the worker's services."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from neuron.clients.cortex_client import SENDABLE_BYTES
from neuron.errors import CortexUnavailableError, ErrorCode, InvalidInputError
from neuron.models.action import Action
from neuron.models.job import JobOutput, JobResult, JobStatus
from neuron.models.lease import AttemptRef, ReleasedJob, Verdict
from neuron.models.worker import WorkerAction, WorkerInfo, WorkerRegistration
from neuron.services.action_listener import ActionInbox
from neuron.services.identity import Registrar
from neuron.services.lifecycle import TRANSITIONS, Lifecycle, WorkerPhase
from neuron.services.result_reporter import ResultReporter
from neuron.services.slots import SlotPool
from neuron.utils.concurrency import until_first
from neuron.utils.retry import Backoff


class NoRegistration:
    """A registrar's client that is never called."""

    async def register_worker(
        self, registration: WorkerRegistration, worker_id: str = ""
    ) -> WorkerInfo:
        raise AssertionError("nobody asked for that")


async def no_registration() -> WorkerRegistration:
    raise AssertionError("nobody asked for that")


def registrar() -> Registrar:
    return Registrar(NoRegistration(), no_registration, wanted_id="wrk_1")


class Reports:
    """Takes reports, refuses some jobs, and is down for a while."""

    def __init__(self, *, down_for: int = 0, refuse: str = "") -> None:
        self.batches: list[list[JobResult]] = []
        self.down_for = down_for
        self.refuse = refuse

    async def report_results(
        self, worker_id: str, results: list[JobResult]
    ) -> dict[AttemptRef, Verdict]:
        if self.down_for:
            self.down_for -= 1
            raise CortexUnavailableError("down")
        if any(result.job_id == self.refuse for result in results):
            raise InvalidInputError("no such thing")
        self.batches.append(results)
        return {AttemptRef(r.job_id, r.attempt): Verdict.ACCEPTED for r in results}

    async def release_jobs(
        self, worker_id: str, jobs: list[ReleasedJob]
    ) -> dict[AttemptRef, Verdict]:
        return {job.ref: Verdict.ACCEPTED for job in jobs}


def result(job_id: str, answer: Any = "x") -> JobResult:
    return JobResult(
        job_id=job_id,
        status=JobStatus.COMPLETED,
        output=JobOutput(result=answer),
        worker_id="wrk_1",
        started_at=datetime.now(UTC),
    )


async def report_all(client: Reports, results: list[JobResult]) -> list[Verdict]:
    reporter = ResultReporter(client, registrar())
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(reporter.report(one)) for one in results]
        await asyncio.sleep(0)
        await reporter.start(tasks)
        async with asyncio.timeout(10):
            await asyncio.wait(asked)
            await reporter.flush()
        await reporter.stop()
    return [one.result() for one in asked]


async def test_results_that_wait_go_out_together() -> None:
    client = Reports()

    verdicts = await report_all(client, [result(f"job_{index}") for index in range(20)])

    assert verdicts == [Verdict.ACCEPTED] * 20
    assert [len(batch) for batch in client.batches] == [20]


async def test_an_outage_loses_no_result() -> None:
    client = Reports(down_for=3)

    await report_all(client, [result(f"job_{index}") for index in range(5)])

    assert sorted(r.job_id for batch in client.batches for r in batch) == [
        f"job_{index}" for index in range(5)
    ]


async def test_a_result_that_cortex_cannot_take_holds_up_no_other() -> None:
    client = Reports(refuse="job_2")

    verdicts = await report_all(client, [result(f"job_{index}") for index in range(5)])

    assert verdicts.count(Verdict.ACCEPTED) == 4
    assert verdicts[2] is Verdict.STALE


async def test_a_result_too_big_for_a_message_becomes_a_failure_that_says_so() -> None:
    client = Reports()

    await report_all(client, [result("job_big", "x" * (SENDABLE_BYTES + 1))])

    (sent,) = client.batches[0]
    assert sent.status is JobStatus.FAILED
    assert sent.error_details is not None
    assert sent.error_details.code is ErrorCode.INSUFFICIENT_RESOURCES
    assert str(SENDABLE_BYTES) in (sent.error or "")


class Handler:
    def __init__(self) -> None:
        self.handled: list[str] = []

    def handle(self, action: Action) -> None:
        self.handled.append(action.action_id)


def test_an_action_counts_once_and_is_acknowledged_until_cortex_knows() -> None:
    handler = Handler()
    inbox = ActionInbox(handler)
    action = Action(action_id="act_1", kind=WorkerAction.PAUSE)

    assert inbox.receive(action)
    assert not inbox.receive(action)
    assert inbox.unacknowledged == ["act_1"]
    inbox.heartbeat_answered([action], acknowledged=["act_1"])
    assert inbox.unacknowledged == []
    inbox.heartbeat_answered([action], acknowledged=[])
    assert inbox.unacknowledged == ["act_1"], "CORTEX repeats it: it has not heard"
    assert handler.handled == ["act_1"]


async def test_slots_are_reserved_before_jobs_come() -> None:
    slots = SlotPool(3)

    assert await slots.reserve_all_free() == 3
    assert slots.free == 0
    assert not slots.try_reserve()
    slots.give_back(2)
    assert slots.free == 2
    slots.capacity = 1
    assert slots.free == 0
    slots.give_back()
    assert await slots.reserve_all_free() == 1


async def test_a_waiting_reservation_wakes_when_a_slot_comes_free() -> None:
    slots = SlotPool(1)
    assert slots.try_reserve()
    async with asyncio.TaskGroup() as group, asyncio.timeout(5):
        waiting = group.create_task(slots.reserve_all_free())
        await asyncio.sleep(0)
        assert not waiting.done()
        slots.give_back()

    assert waiting.result() == 1


def test_a_worker_changes_its_state_only_as_the_table_says() -> None:
    life = Lifecycle()
    with pytest.raises(RuntimeError):
        life.enter(WorkerPhase.BUSY)
    for before, after in pairwise(
        [WorkerPhase.START, WorkerPhase.INITIALIZING, WorkerPhase.CONNECTING]
    ):
        assert after in TRANSITIONS[before]
        life.enter(after)
    assert not life.is_running
    assert all(
        WorkerPhase.STOPPED in targets or phase in (WorkerPhase.START, WorkerPhase.STOPPED)
        for phase, targets in TRANSITIONS.items()
    )


def test_backoff_grows_to_its_limit_with_jitter() -> None:
    backoff = Backoff(initial=1.0, maximum=8.0, jitter=random.Random(1))
    delays = [backoff.next_delay() for _ in range(40)]

    for index, ceiling in enumerate([1, 2, 4, 8, 8]):
        assert ceiling / 2 <= delays[index] <= ceiling
    assert max(delays) <= 8.0
    assert len(set(delays)) == len(delays)
    backoff.reset()
    assert backoff.next_delay() <= 1.0


async def test_until_first_cancels_the_others() -> None:
    cancelled = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    assert await until_first(forever(), asyncio.sleep(0)) == 1
    assert cancelled.is_set()
