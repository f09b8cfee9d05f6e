"""Letting go of leases that were not renewed, each at its own time, by one timer."""

from __future__ import annotations

import asyncio
import weakref
from types import SimpleNamespace
from typing import cast

from neuron.models.job import LeasedJob
from neuron.models.lease import AttemptRef, Renewal, Verdict
from neuron.services.identity import Registrar
from neuron.services.lease_keeper import Lease, LeaseKeeper, LeaseLoss


class Cortex:
    """Renews what it is told to, for a given time."""

    def __init__(self) -> None:
        self.stale: set[str] = set()
        self.seconds = 60.0

    async def renew_leases(
        self, worker_id: str, refs: list[AttemptRef], within_seconds: float | None = None
    ) -> Renewal:
        verdicts = {
            ref: Verdict.STALE if ref.job_id in self.stale else Verdict.ACCEPTED for ref in refs
        }
        return Renewal(verdicts, self.seconds)


class Held:
    """Leases in one keeper, and which were lost, why and when."""

    def __init__(self) -> None:
        self.cortex = Cortex()
        registrar = cast(Registrar, SimpleNamespace(worker_id="wrk_1", lease_seconds=60.0))
        self.keeper = LeaseKeeper(self.cortex, registrar)
        self.lost: dict[str, tuple[LeaseLoss, float]] = {}
        self.began = asyncio.get_running_loop().time()

    def hold(self, job_id: str, seconds: float) -> Lease:
        def on_loss(loss: LeaseLoss) -> None:
            assert job_id not in self.lost, "a loss is told once"
            self.lost[job_id] = loss, asyncio.get_running_loop().time() - self.began

        leased = SimpleNamespace(
            job=SimpleNamespace(job_id=job_id), attempt=1, lease_seconds=seconds
        )
        return self.keeper.hold(cast(LeasedJob, leased), on_loss)

    async def until_lost(self, *job_ids: str) -> None:
        async with asyncio.timeout(5):
            while not self.lost.keys() >= set(job_ids):  # noqa: ASYNC110 - timers have no event
                await asyncio.sleep(0.005)


async def test_each_lease_is_let_go_before_it_ends_whatever_their_order() -> None:
    held = Held()
    for job_id, seconds in (("long", 0.4), ("short", 0.1), ("longest", 0.6), ("middle", 0.2)):
        held.hold(job_id, seconds)

    await held.until_lost("short", "middle", "long", "longest")

    assert list(held.lost) == ["short", "middle", "long", "longest"]
    for job_id, seconds in (("short", 0.1), ("middle", 0.2), ("long", 0.4), ("longest", 0.6)):
        loss, after = held.lost[job_id]
        assert loss is LeaseLoss.EXPIRED
        assert 0.9 * seconds <= after + 0.002
        assert after < seconds, "its lease had ended at CORTEX"


async def test_a_renewed_lease_stays_and_a_released_one_is_nobody_s() -> None:
    held = Held()
    renewed, released = held.hold("renewed", 0.1), held.hold("released", 0.1)
    held.keeper.release(released)
    await held.keeper.run_once()
    held.hold("other", 0.15)

    await held.until_lost("other")

    assert list(held.lost) == ["other"]
    assert renewed.confirmed.is_set()
    assert renewed.lost is None


async def test_a_lease_that_a_renewal_makes_shorter_ends_sooner() -> None:
    held = Held()
    lease = held.hold("job_1", 60)
    held.cortex.seconds = 0.1
    await held.keeper.run_once()
    assert lease.confirmed.is_set()

    await held.until_lost("job_1")

    assert held.lost["job_1"][0] is LeaseLoss.EXPIRED


async def test_a_stale_lease_is_lost_once() -> None:
    held = Held()
    lease = held.hold("job_1", 0.1)
    held.cortex.stale.add("job_1")
    await held.keeper.run_once()
    assert held.lost["job_1"][0] is LeaseLoss.STALE
    held.hold("other", 0.2)

    await held.until_lost("other")

    assert held.lost["job_1"][0] is LeaseLoss.STALE
    assert not lease.confirmed.is_set()


async def test_a_released_lease_keeps_nobody_in_memory() -> None:
    """A cycle for each job would have the collector walk over all objects, again and again."""

    class Owner:
        def lost(self, loss: LeaseLoss) -> None:
            raise AssertionError(loss)

    held = Held()
    owner = Owner()
    leased = SimpleNamespace(job=SimpleNamespace(job_id="job_1"), attempt=1, lease_seconds=60)
    lease = held.keeper.hold(cast(LeasedJob, leased), owner.lost)
    alive = weakref.ref(owner)

    held.keeper.release(lease)
    del owner

    assert alive() is None
