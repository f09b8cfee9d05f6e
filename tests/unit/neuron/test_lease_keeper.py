"""Renewing while CORTEX may suspect the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest

from neuron.errors import CortexUnavailableError
from neuron.models.lease import AttemptRef, Renewal, Verdict
from neuron.services.identity import Registrar
from neuron.services.lease_keeper import Lease, LeaseKeeper

LEASE = 300.0
REF = AttemptRef("job_1", 1)


class Cortex:
    """Answers renewals when a test lets it."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[list[AttemptRef]] = asyncio.Queue()
        self.answer = asyncio.Event()
        self.answer.set()
        self.failures = 0

    async def renew_leases(
        self, worker_id: str, refs: list[AttemptRef], within_seconds: float | None = None
    ) -> Renewal:
        self.asked.put_nowait(refs)
        await self.answer.wait()
        if self.failures:
            self.failures -= 1
            raise CortexUnavailableError("CORTEX is away")
        return Renewal(dict.fromkeys(refs, Verdict.ACCEPTED), LEASE)

    async def is_asked(self, seconds: float = 2.0) -> list[AttemptRef]:
        async with asyncio.timeout(seconds):
            return await self.asked.get()


@pytest.fixture
def cortex() -> Cortex:
    return Cortex()


@asynccontextmanager
async def holding_a_job(cortex: Cortex) -> AsyncIterator[LeaseKeeper]:
    """A keeper that has just renewed, and would not again for a long time."""
    registrar = cast(Registrar, SimpleNamespace(worker_id="wrk_1", lease_seconds=LEASE))
    keeper = LeaseKeeper(cortex, registrar)
    async with asyncio.TaskGroup() as tasks:
        await keeper.start(tasks)
        leased = SimpleNamespace(
            job=SimpleNamespace(job_id=REF.job_id), attempt=REF.attempt, lease_seconds=LEASE
        )
        lease: Lease = keeper.hold(leased, lambda loss: None)  # type: ignore[arg-type]  # enough
        await lease.confirmed.wait()
        await cortex.is_asked()
        yield keeper
        keeper.release(lease)
        await keeper.stop()


async def test_a_broken_stream_brings_a_renewal_at_once(cortex: Cortex) -> None:
    async with holding_a_job(cortex) as keeper:
        keeper.stream_broken()
        assert await cortex.is_asked(seconds=0.4) == [REF]


async def test_a_renewal_that_fails_meanwhile_is_tried_until_one_succeeds(cortex: Cortex) -> None:
    async with holding_a_job(cortex) as keeper:
        keeper.stream_broken()
        await cortex.is_asked()
        keeper.stream_opened()
        cortex.failures = 2
        for _ in range(3):
            assert await cortex.is_asked() == [REF]


async def test_what_was_asked_before_the_next_stream_stood_is_asked_again(cortex: Cortex) -> None:
    """Until it stood, CORTEX may have shortened what it had just renewed."""
    async with holding_a_job(cortex) as keeper:
        cortex.answer.clear()
        keeper.stream_broken()
        await cortex.is_asked()
        keeper.stream_opened()
        cortex.answer.set()
        assert await cortex.is_asked() == [REF]


async def test_the_first_stream_is_no_reason_to_hurry(cortex: Cortex) -> None:
    async with holding_a_job(cortex) as keeper:
        keeper.stream_opened()
        with pytest.raises(TimeoutError):
            await cortex.is_asked(seconds=0.7)
