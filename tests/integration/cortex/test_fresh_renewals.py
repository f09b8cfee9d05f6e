"""The first renewal of a lease granted just now needs no commit; all others do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from cortex_tools import Cortex, eventually

from mnemos.cortex.notifier import worker_topic
from mnemos.cortex.records import AttemptRef, RefVerdict
from mnemos.protocol.v1 import cortex_pb2 as pb


class Renewals:
    """Counts what the store is asked to renew."""

    def __init__(self, cortex: Cortex, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[str]] = []
        self._cortex = cortex
        renew = cortex.server.store.renew

        async def counted(worker_id: str, refs: Sequence[AttemptRef]) -> list[RefVerdict]:
            self.asked.append([ref.job_id for ref in refs])
            return await renew(worker_id, refs)

        monkeypatch.setattr(cortex.server.store, "renew", counted)

    async def renew(self, *job_ids: str, attempt: int = 1) -> tuple[set[Any], float]:
        """Renew as a worker does; return the verdicts and the seconds that the leases have."""
        answer = await self._cortex.stub.RenewLeases(
            pb.RenewLeasesRequest(
                worker_id=self._cortex.worker_id,
                jobs=[pb.AttemptRef(job_id=job_id, attempt=attempt) for job_id in job_ids],
            )
        )
        return {one.verdict for one in answer.verdicts}, answer.lease.ToNanoseconds() / 1e9


@pytest.fixture
def renewals(cortex: Cortex, monkeypatch: pytest.MonkeyPatch) -> Renewals:
    return Renewals(cortex, monkeypatch)


async def watch(cortex: Cortex) -> Any:
    """Open the stream of actions, as every worker does."""
    request = pb.WatchActionsRequest(worker_id=cortex.worker_id, instance_id="one")
    call = cortex.stub.WatchActions(request)
    await call.read()
    return call


async def test_a_new_lease_is_confirmed_without_the_store_and_renewed_by_it(
    cortex: Cortex, renewals: Renewals
) -> None:
    await cortex.register()
    call = await watch(cortex)
    job_id = await cortex.hold()
    lease = cortex.server._settings.lease_seconds

    verdicts, seconds = await renewals.renew(job_id)

    assert verdicts == {pb.VERDICT_ACCEPTED}
    assert 0 < seconds < lease, "the lease counts from its claim"
    assert renewals.asked == []
    assert await renewals.renew(job_id) == ({pb.VERDICT_ACCEPTED}, lease)
    assert renewals.asked == [[job_id]]
    assert await cortex.complete(job_id) == pb.VERDICT_ACCEPTED
    call.cancel()


async def test_another_attempt_is_stale_and_an_old_lease_is_the_store_s(
    cortex: Cortex, renewals: Renewals
) -> None:
    await cortex.register()
    call = await watch(cortex)
    first, second = await cortex.hold(), await cortex.hold()
    assert (await renewals.renew(first))[0] == {pb.VERDICT_ACCEPTED}

    assert (await renewals.renew(second, attempt=2))[0] == {pb.VERDICT_STALE}
    assert (await renewals.renew(first, second))[0] == {pb.VERDICT_ACCEPTED}

    assert renewals.asked == [[second], [first, second]]
    call.cancel()


async def test_without_its_stream_of_actions_a_worker_renews_in_the_store(
    cortex: Cortex, renewals: Renewals
) -> None:
    await cortex.register()
    never = await cortex.hold()
    await renewals.renew(never)
    call = await watch(cortex)
    job_id = await cortex.hold()
    call.cancel()

    async def is_closed() -> bool:
        return worker_topic(cortex.worker_id) not in cortex.server.notifier.topics

    await eventually(is_closed, "CORTEX sees the stream end")
    await renewals.renew(job_id)
    assert renewals.asked == [[never], [job_id]]
