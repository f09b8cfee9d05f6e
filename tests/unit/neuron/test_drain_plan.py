"""Which jobs of a draining worker may go on, and which go back at once."""

from __future__ import annotations

import asyncio

import pytest

from neuron.models.lease import AttemptRef
from neuron.services.drain_plan import (
    SpeedMeter,
    TextProgress,
    jobs_to_hand_back,
    reserve_of,
)
from neuron.services.draining import Drain
from neuron.services.outcomes import StopReason


@pytest.mark.parametrize(
    ("tokens", "max_tokens", "speed", "seconds_left", "goes_back"),
    [
        (0, 100, 10.0, 13.0, False),  # 10 s of work in 11 s
        (0, 100, 10.0, 11.0, True),  # 10 s of work in 9 s
        (95, 100, 1.0, 8.0, False),  # slow, and nearly done
        (100, 100, 1.0, 2.5, False),  # done but for its end
        (0, 1, 0.0, 3.0, False),  # it made no token: nothing is known
        (0, 10_000, None, 3.0, False),  # it has not begun
        (0, 10_000, None, 2.0, True),  # only the reserve is left
        (100, 100, 10.0, 1.0, True),
    ],
)
def test_a_text_goes_on_if_its_rest_fits_at_its_speed(
    tokens: int, max_tokens: int, speed: float | None, seconds_left: float, *, goes_back: bool
) -> None:
    progress = TextProgress(tokens, max_tokens, speed)

    assert jobs_to_hand_back({"job": progress}, seconds_left, 2.0) == ["job"] * goes_back


def test_each_job_is_judged_by_itself() -> None:
    jobs = {
        "fast": TextProgress(0, 100, 50.0),
        "rows": None,
        "slow": TextProgress(0, 100, 5.0),
        "loading": TextProgress(0, 100, None),
    }

    assert jobs_to_hand_back(jobs, 10.0, 1.0) == ["slow"]
    assert jobs_to_hand_back(jobs, 1.0, 1.0) == list(jobs)


def test_the_reserve_is_a_tenth_and_never_long() -> None:
    assert [reserve_of(seconds) for seconds in (0, 30, 120)] == [0, 3, 5]


def test_speed_is_measured_from_the_first_token_on() -> None:
    meter = SpeedMeter()
    assert meter.tokens_per_second is None
    meter.note(40, 100.0)  # 39 came with an attempt before, and the prompt took long
    assert meter.tokens_per_second is None
    meter.note(41, 100.1)
    assert meter.tokens_per_second is None, "a tenth of a second says nothing"
    meter.note(60, 102.0)
    assert meter.tokens_per_second == pytest.approx(10.0)


class Job:
    """Makes as many tokens a second as it is told, and ends when it is stopped."""

    def __init__(self, name: str, progress: TextProgress | None) -> None:
        self.ref = AttemptRef(name, 1)
        self.progress = progress
        self.reasons: list[StopReason] = []
        self.stopped = asyncio.Event()

    def stop(self, reason: StopReason) -> None:
        self.reasons.append(reason)
        self.stopped.set()


async def test_a_drain_hands_back_what_falls_behind_while_it_goes_on() -> None:
    jobs = [Job("steady", TextProgress(0, 100, 100.0)), Job("rows", None)]
    drain = Drain(60.0)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(drain.hand_back_late(lambda: jobs))
        await asyncio.sleep(0)
        assert [job.reasons for job in jobs] == [[], []]
        jobs[0].progress = TextProgress(1, 100, 0.5)
        await jobs[0].stopped.wait()
        loop.cancel()

    assert [job.reasons for job in jobs] == [[StopReason.HANDED_BACK], []]


async def test_a_nearer_deadline_counts_at_once_and_a_later_one_never() -> None:
    job = Job("text", TextProgress(0, 100, 2.0))  # 50 s
    drain = Drain(300.0)
    assert not drain.shorten(400.0)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(drain.hand_back_late(lambda: [job]))
        await asyncio.sleep(0)
        assert job.reasons == []
        assert drain.shorten(30.0)
        async with asyncio.timeout(0.2):
            await job.stopped.wait()
        loop.cancel()


async def test_a_drain_without_time_ends_at_once() -> None:
    async with asyncio.timeout(1):
        await Drain(0.0).hand_back_late(list)
