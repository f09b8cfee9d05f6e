"""A runtime that was taken out comes back on probation."""

from __future__ import annotations

import asyncio

from neuron.models.runtime import RuntimeType
from neuron.services.runtime_health import MAX_FAILURES, RuntimeHealth

VLLM = RuntimeType.VLLM


class Changes:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.count = 0
        self._told = asyncio.Event()

    async def __call__(self) -> None:
        self.count += 1
        self._told.set()

    async def next(self) -> None:
        async with asyncio.timeout(5):
            await self._told.wait()
        self._told.clear()


async def test_it_is_offered_again_and_one_more_failure_takes_it_out() -> None:
    unavailable: dict[RuntimeType, str] = {}
    changes = Changes()
    health = RuntimeHealth(unavailable, changes, retry_seconds=0.05)
    async with asyncio.TaskGroup() as tasks:
        await health.start(tasks)
        for _ in range(MAX_FAILURES):
            health.failed(VLLM, "no libcudart")
        await changes.next()
        assert "no libcudart" in unavailable[VLLM]
        await changes.next()
        assert unavailable == {}
        health.failed(VLLM, "still none")
        await changes.next()
        assert "still none" in unavailable[VLLM]
        await health.stop()


async def test_a_start_that_works_clears_what_was_counted() -> None:
    unavailable: dict[RuntimeType, str] = {}
    health = RuntimeHealth(unavailable, Changes())
    for _ in range(MAX_FAILURES - 1):
        health.failed(VLLM, "busy")
    health.started(VLLM)
    for _ in range(MAX_FAILURES - 1):
        health.failed(VLLM, "busy")

    assert unavailable == {}
