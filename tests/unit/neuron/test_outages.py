"""Leases stand still while nothing listens at the address of the only CORTEX."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import cast

import pytest
from fault_proxy import FaultProxy

from neuron.clients.cortex_client import CortexClient
from neuron.errors import CortexRefusedError, CortexUnavailableError
from neuron.models.job import LeasedJob
from neuron.models.lease import AttemptRef, Renewal
from neuron.services.identity import Registrar
from neuron.services.lease_keeper import LeaseKeeper, LeaseLoss

FIRST_LEASE_SECONDS = 0.3
LEASE_SECONDS = 60.0


class Away:
    """A CORTEX that cannot be reached, for one reason or another."""

    def __init__(self, reason: type[CortexUnavailableError]) -> None:
        self.reason = reason

    async def renew_leases(
        self, worker_id: str, refs: list[AttemptRef], within_seconds: float | None = None
    ) -> Renewal:
        raise self.reason("CORTEX is away")


async def loss_within(
    seconds: float, reason: type[CortexUnavailableError], *, sole: bool
) -> LeaseLoss | None:
    """Hold a job whose lease is shorter than that, and say whether it was lost."""
    registrar = SimpleNamespace(worker_id="wrk_1", lease_seconds=LEASE_SECONDS, cortex_is_sole=sole)
    keeper = LeaseKeeper(Away(reason), cast(Registrar, registrar))
    lost: asyncio.Future[LeaseLoss] = asyncio.get_running_loop().create_future()
    leased = SimpleNamespace(
        job=SimpleNamespace(job_id="job_1"), attempt=1, lease_seconds=FIRST_LEASE_SECONDS
    )
    async with asyncio.TaskGroup() as tasks:
        await keeper.start(tasks)
        lease = keeper.hold(cast(LeasedJob, leased), lost.set_result)
        done, _ = await asyncio.wait([lost], timeout=seconds)
        keeper.release(lease)
        await keeper.stop()
    return lost.result() if done else None


async def test_a_lease_outlasts_a_cortex_that_does_not_run() -> None:
    assert await loss_within(3 * FIRST_LEASE_SECONDS, CortexRefusedError, sole=True) is None


@pytest.mark.parametrize(
    ("reason", "sole"), [(CortexRefusedError, False), (CortexUnavailableError, True)]
)
async def test_it_ends_where_somebody_may_give_the_job_away(
    reason: type[CortexUnavailableError], sole: bool
) -> None:
    assert await loss_within(5, reason, sole=sole) is LeaseLoss.EXPIRED


async def reason_of(address: str, seconds: float = 10) -> CortexUnavailableError:
    """Say why a renewal fails at an address."""
    client = CortexClient(address, timeout=seconds)
    await client.connect()
    with pytest.raises(CortexUnavailableError) as caught:
        await client.renew_leases("wrk_1", [])
    await client.close()
    return caught.value


@pytest.mark.parametrize("listens", [False, True])
async def test_a_port_at_which_nobody_listens_is_told_from_a_silent_one(listens: bool) -> None:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        if listens:
            port.listen()
        # A refusal comes at once, unless the machine is busy; silence is waited for.
        reason = await reason_of(f"127.0.0.1:{port.getsockname()[1]}", 0.5 if listens else 10)
    assert isinstance(reason, CortexRefusedError) is not listens


async def test_and_from_one_that_hangs_up() -> None:
    async with FaultProxy("127.0.0.1", 1) as proxy:
        assert not isinstance(await reason_of(proxy.address), CortexRefusedError)
