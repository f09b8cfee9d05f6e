"""The behaviour of every store: workers whose streams broke."""

from __future__ import annotations

from cortex_tools import LEASE, StoreFactory, StoreTools, TurnableClock

from mnemos.cortex.notifier import LocalNotifier
from mnemos.cortex.records import AttemptRef, Fence
from mnemos.cortex.state_machine import JobState

SOON = 3.0


async def lasts(tools: StoreTools, job_ids: list[str], seconds: float) -> bool:
    """Whether the leases on some jobs end after `seconds`, not sooner; time passes."""
    tools.clock.turn(seconds - 0.1)
    early = (await tools.store.reap()).leases_expired
    tools.clock.turn(0.2)
    return early == 0 and (await tools.store.reap()).leases_expired == len(job_ids)


async def hold(tools: StoreTools, worker_id: str, jobs: int, instance: str = "one") -> list[str]:
    await tools.register(worker_id, instance=instance)
    for _ in range(jobs):
        await tools.submit()
    return [leased.job.job_id for leased in await tools.claim(worker_id, max_jobs=jobs)]


async def test_leases_of_a_suspected_worker_end_soon_and_no_others(tools: StoreTools) -> None:
    held = await hold(tools, "wrk_a", 3)
    [other] = await hold(tools, "wrk_b", 1)
    assert await tools.store.watch("wrk_a", "one", "wch_1")
    assert await tools.store.watch("wrk_b", "one", "wch_2")

    assert await tools.store.suspect([("wrk_a", "wch_1")], SOON) == 3

    assert await lasts(tools, held, SOON)
    assert (await tools.store.get_job(other)).status is JobState.ACQUIRED
    assert (await tools.store.get_job(held[0])).lost_workers == 1


async def test_a_renewal_gives_the_whole_lease_again(tools: StoreTools) -> None:
    held = await hold(tools, "wrk_a", 2)
    await tools.store.watch("wrk_a", "one", "wch_1")
    await tools.store.suspect([("wrk_a", "wch_1")], SOON)
    tools.clock.turn(SOON - 0.1)

    verdicts = await tools.store.renew("wrk_a", [AttemptRef(job_id, 1) for job_id in held])

    assert {verdict.verdict for verdict in verdicts} == {Fence.ACCEPTED}
    assert await lasts(tools, held, LEASE)


async def test_a_lease_is_never_made_longer(tools: StoreTools) -> None:
    held = await hold(tools, "wrk_a", 1)
    await tools.store.watch("wrk_a", "one", "wch_1")
    tools.clock.turn(LEASE - 1)

    assert await tools.store.suspect([("wrk_a", "wch_1")], SOON) == 0

    assert await lasts(tools, held, 1)


async def test_suspecting_twice_shortens_once(tools: StoreTools) -> None:
    held = await hold(tools, "wrk_a", 1)
    await tools.store.watch("wrk_a", "one", "wch_1")
    assert await tools.store.suspect([("wrk_a", "wch_1")], SOON) == 1
    tools.clock.turn(1)
    assert await tools.store.suspect([("wrk_a", "wch_1")], SOON) == 0
    assert await lasts(tools, held, SOON - 1)


async def test_whoever_opened_another_stream_is_not_suspected(tools: StoreTools) -> None:
    held = await hold(tools, "wrk_a", 1)
    await tools.store.watch("wrk_a", "one", "wch_1")
    await tools.store.watch("wrk_a", "one", "wch_2")

    assert await tools.store.suspect([("wrk_a", "wch_1")], SOON) == 0

    assert await lasts(tools, held, LEASE)


async def test_a_stream_of_a_process_that_was_replaced_means_nothing(tools: StoreTools) -> None:
    await hold(tools, "wrk_a", 1, instance="one")
    await tools.store.watch("wrk_a", "one", "wch_1")
    held = await hold(tools, "wrk_a", 1, instance="two")

    assert not await tools.store.watch("wrk_a", "one", "wch_late")
    assert await tools.store.suspect([("wrk_a", "wch_1"), ("wrk_a", "wch_late")], SOON) == 0

    assert await lasts(tools, held, LEASE)


async def test_nobody_is_suspected_who_said_goodbye(tools: StoreTools) -> None:
    await hold(tools, "wrk_a", 1)
    await tools.store.watch("wrk_a", "one", "wch_1")
    await tools.store.deregister("wrk_a", "bye", "one")
    await hold(tools, "wrk_a", 1)

    assert await tools.store.suspect([("wrk_a", "wch_1")], SOON) == 0
    assert not await tools.store.watch("wrk_x", "one", "wch_3")


async def test_a_stream_that_broke_at_another_replica_costs_nothing(
    postgres_factory: StoreFactory, clock: TurnableClock, notifier: LocalNotifier
) -> None:
    """Noticed late, and even twice: the worker has opened a stream elsewhere by then."""
    async with postgres_factory() as here, postgres_factory() as there:
        books = StoreTools(here, clock, notifier)
        held = await hold(books, "wrk_a", 2)
        await here.watch("wrk_a", "one", "wch_here")
        await there.watch("wrk_a", "one", "wch_there")
        await there.renew("wrk_a", [AttemptRef(job_id, 1) for job_id in held])

        assert await here.suspect([("wrk_a", "wch_here")], SOON) == 0
        assert await there.suspect([("wrk_a", "wch_there")], SOON) == 2
        assert await here.suspect([("wrk_a", "wch_there")], SOON) == 0

        assert await lasts(books, held, SOON)
