"""A job that kills its workers is parked, and nobody who was there with it."""

from __future__ import annotations

from cortex_tools import LEASE, StoreTools

from mnemos.cortex.records import AttemptRef, ClaimRequest, Report
from mnemos.cortex.state_machine import APART_SECONDS, JobState


async def claim(tools: StoreTools, worker_id: str = "wrk_a", max_jobs: int = 8) -> list[str]:
    """Once every back-off is over."""
    tools.clock.turn(300)
    await tools.store.promote_due()
    return [leased.job.job_id for leased in await tools.claim(worker_id, max_jobs)]


async def lose_worker(tools: StoreTools, number: int) -> None:
    """Kill it; another process begins under its id."""
    await tools.register(instance=f"process {number}")


async def complete(tools: StoreTools, job_ids: list[str]) -> None:
    jobs = [await tools.store.get_job(job_id) for job_id in job_ids]
    reports = [
        Report(job_id=job.job_id, attempt=job.attempt, status=JobState.COMPLETED, result='"A"')
        for job in jobs
    ]
    await tools.store.report("wrk_a", reports)


async def test_of_a_killer_and_its_neighbours_the_killer_alone_is_parked(tools: StoreTools) -> None:
    await tools.register()
    neighbours = [await tools.submit(max_retries=1) for _ in range(3)]
    killer = await tools.submit(max_retries=1)
    neighbours += [await tools.submit(max_retries=1) for _ in range(4)]
    everybody = {killer, *neighbours}
    for number in range(2):
        assert set(await claim(tools)) == everybody
        await lose_worker(tools, number)
    alone = []
    while held := await claim(tools):
        alone.append(held)
        if killer in held:
            await lose_worker(tools, 2)
        else:
            await complete(tools, held)

    assert sorted(map(len, alone)) == [1] * 8
    jobs = [await tools.store.get_job(job_id) for job_id in neighbours]
    assert {(job.status, job.retries_used) for job in jobs} == {(JobState.COMPLETED, 0)}
    job = await tools.store.get_job(killer)
    assert (job.status, job.error_code, job.error_retryable, job.lost_workers) == (
        *(JobState.FAILED, "worker_lost", False, 3),
    )
    assert job.error == (
        "3 workers were lost while this job ran on them; "
        "last: worker wrk_a was lost: it started anew"
    )


async def test_a_suspect_runs_beside_others_but_not_beside_a_suspect(tools: StoreTools) -> None:
    await tools.register()
    suspects = [await tools.submit() for _ in range(20)]
    for number in range(2):
        assert len(await claim(tools, max_jobs=20)) == 20
        await lose_worker(tools, number)
    innocent = [await tools.submit() for _ in range(20)]
    tools.clock.turn(300)
    await tools.store.promote_due()

    first = await tools.claim(max_jobs=4)
    more = await tools.claim(max_jobs=4)
    await tools.register("wrk_b")
    elsewhere = await tools.claim("wrk_b", max_jobs=1)

    assert [leased.job.job_id for leased in first] == [suspects[0], *innocent[:3]]
    assert [leased.job.job_id for leased in more] == innocent[3:7]
    assert [leased.job.job_id for leased in elsewhere] == [suspects[1]]

    tools.clock.turn(APART_SECONDS)
    await tools.store.renew("wrk_a", [AttemptRef(suspects[0], 3)])
    later = await tools.claim(max_jobs=2)
    assert [leased.job.job_id for leased in later] == [suspects[2], innocent[7]]


async def test_who_leaves_a_suspect_asks_again_soon(tools: StoreTools) -> None:
    await tools.register()
    for _ in range(2):
        await tools.submit()
    for number in range(2):
        await claim(tools)
        await lose_worker(tools, number)
    assert len(await claim(tools)) == 1
    claimed = await tools.store.claim(ClaimRequest(worker_id="wrk_a", max_jobs=4))
    assert claimed.jobs == []
    assert claimed.again_in_seconds is not None
    assert claimed.again_in_seconds <= 1


async def test_a_job_handed_back_lost_nobody_and_a_retry_by_hand_counts_anew(
    tools: StoreTools,
) -> None:
    job_id = await tools.hold()
    await tools.store.release("wrk_a", [tools.handed_back(job_id, 1)])
    assert (await tools.store.get_job(job_id)).lost_workers == 0
    for count in (1, 2, 3):
        assert await claim(tools) == [job_id]
        tools.clock.turn(LEASE + 1)
        await tools.store.reap()
        assert (await tools.store.get_job(job_id)).lost_workers == count
    await tools.store.retry_job(job_id)
    job = await tools.store.get_job(job_id)
    assert (job.status, job.lost_workers) == (JobState.PENDING, 0)
    assert await claim(tools) == [job_id]
