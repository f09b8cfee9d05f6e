"""Work beside the event loop: handed over together, answered one by one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from neuron.errors import NeuronError
from neuron.runtimes.pytorch_engine.threads import Threads

SECONDS = 10


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    made = Threads(2)
    yield made
    made.close()


async def test_everyone_gets_their_own_answer(threads: Threads) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(threads.call(pow, number, 2)) for number in range(100)]
    assert [task.result() for task in tasks] == [number**2 for number in range(100)]


async def test_an_error_is_its_callers_alone(threads: Threads) -> None:
    async with asyncio.TaskGroup() as group:
        good = [group.create_task(threads.call(int, "7")) for _ in range(3)]
        with pytest.raises(ValueError, match="seven"):
            await threads.call(int, "seven")
    assert [task.result() for task in good] == [7, 7, 7]


async def test_a_slow_call_holds_up_no_earlier_one() -> None:
    threads, gate = Threads(1), threading.Event()
    async with asyncio.TaskGroup() as group:
        quick = group.create_task(threads.call(lambda: "quick"))
        slow = group.create_task(threads.call(gate.wait, SECONDS))
        async with asyncio.timeout(SECONDS / 2):
            assert await quick == "quick"
        assert not slow.done()
        gate.set()
    threads.close()


async def test_a_call_given_up_before_its_turn_is_not_made() -> None:
    threads, gate, made = Threads(1), threading.Event(), list[str]()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(threads.call(gate.wait, SECONDS))
        await asyncio.sleep(0)
        second = group.create_task(threads.call(made.append, "second"))
        third = group.create_task(threads.call(made.append, "third"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        await third
    threads.close()
    assert first.result()
    assert made == ["third"]


async def test_closing_leaves_nobody_waiting() -> None:
    threads, gate = Threads(1), threading.Event()

    async def refused() -> None:
        with pytest.raises(NeuronError, match="being unloaded"):
            await threads.call(gate.wait, SECONDS)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(refused())
            await asyncio.sleep(0)
        threads.close()
        group.create_task(refused())
    gate.set()
