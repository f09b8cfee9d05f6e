"""The behaviour of every store: keys and batches have their shares of the workers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from cortex_tools import StoreTools

from mnemos.cortex.notifier import worker_topic
from mnemos.cortex.records import ClaimRequest, LeasedJob, LoadedModel, ModelKey, Report
from mnemos.cortex.sql.transaction import Transaction
from mnemos.cortex.state_machine import JobState

WARM = (LoadedModel(ModelKey("warm", "1", "transformers")),)


async def wait(tools: StoreTools, jobs: int, **changes: Any) -> list[str]:
    """Let so many jobs wait."""
    new = [tools.new_job(**changes) for _ in range(jobs)]
    return [stored.job_id for stored in await tools.store.submit(new)]


async def finish(tools: StoreTools, leased: list[LeasedJob], worker_id: str = "wrk_a") -> None:
    reports = [
        Report(job_id=one.job.job_id, attempt=one.job.attempt, status=JobState.COMPLETED)
        for one in leased
    ]
    await tools.store.report(worker_id, reports)


async def owners(tools: StoreTools, claims: int, max_jobs: int = 1, **changes: Any) -> list[str]:
    """Whose jobs a worker is given that finishes all that it gets at once."""
    found = []
    for _ in range(claims):
        leased = await tools.claim(max_jobs=max_jobs, **changes)
        found += [one.job.key_id for one in leased]
        await finish(tools, leased)
    return found


@pytest.mark.parametrize("max_jobs", [1, 8])
async def test_keys_have_their_shares_whatever_waits_of_each(
    tools: StoreTools, max_jobs: int
) -> None:
    tools.store.shares.set_weights({"heavy": 3.0})
    await tools.register(slots=8)
    await wait(tools, 3000, key_id="heavy")
    await wait(tools, 20, key_id="light", family="other")
    got = Counter(await owners(tools, 64 // max_jobs, max_jobs))
    assert got == pytest.approx({"heavy": 48, "light": 16}, abs=3)
    assert Counter(await owners(tools, 3, 8))["heavy"] >= 18, "what the light key leaves is taken"


async def test_a_newcomer_is_not_behind_anothers_backlog(tools: StoreTools) -> None:
    await tools.register(slots=8)
    await wait(tools, 200, key_id="old", priority=5)
    tools.clock.turn(60)
    assert set(await owners(tools, 10)) == {"old"}
    await wait(tools, 1, key_id="new")
    await wait(tools, 1)
    assert set(await owners(tools, 3)) == {"old", "new", ""}


async def test_a_higher_priority_goes_first_whoever_has_it(tools: StoreTools) -> None:
    await tools.register(slots=8)
    await wait(tools, 20, key_id="low", priority=5)
    await wait(tools, 3, key_id="high", priority=6)
    await wait(tools, 3, key_id="high", priority=5)
    got = await owners(tools, 1, max_jobs=8)
    assert got[:3] == ["high"] * 3
    assert Counter(got[3:]) == pytest.approx({"low": 3, "high": 2}, abs=1)


async def test_among_keys_too_a_warm_model_overtakes_for_thirty_seconds_only(
    tools: StoreTools,
) -> None:
    await tools.register(slots=8)
    await wait(tools, 20, key_id="a", family="cold")
    tools.clock.turn(20)
    await wait(tools, 50, key_id="b", family="warm")
    assert set(await owners(tools, 4, models=WARM)) == {"b"}
    tools.clock.turn(10)
    got = Counter(await owners(tools, 8, models=WARM))
    assert got == {"a": 4, "b": 4}, "then it has its share, and no more"


async def test_a_job_counts_for_as_many_as_it_has_rows(tools: StoreTools) -> None:
    await tools.register(slots=8, job_types=("inference", "batch_inference"))
    await wait(tools, 20, key_id="rows", job_type="batch_inference", row_count=10)
    await wait(tools, 50, key_id="single")
    got = Counter(await owners(tools, 33))
    assert got["single"] == pytest.approx(30, abs=2)


@pytest.mark.parametrize("max_jobs", [1, 10])
async def test_batches_have_their_share_while_others_wait_all_the_time(
    tools: StoreTools, max_jobs: int
) -> None:
    await tools.register(slots=10)
    await wait(tools, 50, key_id="batch", is_batch=True, priority=3)
    await wait(tools, 200, key_id="online")
    got = Counter(await owners(tools, 100 // max_jobs, max_jobs))
    assert got == pytest.approx({"online": 90, "batch": 10}, abs=1)


async def test_an_interactive_job_finds_a_slot_beside_a_batch(tools: StoreTools) -> None:
    await tools.register(slots=8)
    await wait(tools, 50, is_batch=True, priority=3)
    held = await tools.claim(max_jobs=8)
    assert len(held) == 7
    assert await tools.claim() == []
    await wait(tools, 2)
    [leased] = await tools.claim(max_jobs=1)
    assert leased.job.job_id not in {one.job.job_id for one in held}
    await finish(tools, held[:1])
    [online] = await tools.claim()
    assert online.job.priority == 5, "the slot that is free again is kept once more"
    assert await tools.claim() == []
    await finish(tools, [*held[1:3], leased, online])
    assert len(await tools.claim(max_jobs=4)) == 3
    assert len(await tools.claim("wrk_a", max_jobs=8)) == 0


async def test_a_batch_is_not_kept_out_by_jobs_that_take_every_free_slot(
    tools: StoreTools,
) -> None:
    """One slot at a time becomes free, and an interactive job waits for it each time."""
    await tools.register(slots=4)
    await wait(tools, 50, key_id="batch", is_batch=True, priority=3)
    await wait(tools, 100, key_id="online")
    held = await tools.claim(max_jobs=4)
    got: Counter[str] = Counter()
    for _ in range(60):
        await finish(tools, [held.pop(0)])
        [leased] = await tools.claim()
        held.append(leased)
        got[leased.job.key_id] += 1
    assert got["batch"] == pytest.approx(6, abs=1)


async def test_a_claim_that_leaves_batches_says_when_to_ask_again(tools: StoreTools) -> None:
    await tools.register(slots=4)
    await wait(tools, 9, is_batch=True)
    assert len(await tools.claim(max_jobs=4)) == 3
    claimed = await tools.store.claim(ClaimRequest(worker_id="wrk_a", max_jobs=1))
    assert (len(claimed.jobs), claimed.again_in_seconds) == (0, 1.0)


async def test_a_line_that_needs_more_memory_stays_a_batch_s(tools: StoreTools) -> None:
    await tools.register(slots=4)
    await wait(tools, 4, is_batch=True)
    held = await tools.claim(max_jobs=4)
    back = tools.handed_back(held[0].job.job_id, 1, min_memory_mb=1000)
    await tools.store.release("wrk_a", [back])
    assert len(await tools.claim()) == 1, "the fourth line; then three slots are taken"
    assert await tools.claim(memory_available_mb=5000) == []
    await finish(tools, held[1:2])
    [again] = await tools.claim(memory_available_mb=5000)
    assert again.job.job_id == held[0].job.job_id


async def test_what_does_not_fit_into_an_answer_costs_nobody_a_turn(tools: StoreTools) -> None:
    await tools.register(slots=8)
    await wait(tools, 10, key_id="a")
    await wait(tools, 10, key_id="b")
    got = await owners(tools, 8, max_jobs=2, max_bytes=1)
    assert Counter(got) == {"a": 4, "b": 4}


async def test_a_worker_that_was_refused_a_batch_is_woken_when_a_slot_is_free(
    tools: StoreTools,
) -> None:
    await tools.register(slots=4)
    await wait(tools, 9, is_batch=True)
    held = await tools.claim(max_jobs=4)
    with tools.notifier.subscribe(worker_topic("wrk_a")) as ear:
        await finish(tools, held[:1])
        assert not await ear.wait(0), "nothing was refused it"
        assert len(await tools.claim()) == 1
        assert await tools.claim() == []
        await finish(tools, held[1:2])
        assert await ear.wait(0)
        assert len(await tools.claim()) == 1
        ear.clear()
        await finish(tools, held[2:])
        assert not await ear.wait(0), "nothing more was refused it"


async def test_the_heads_of_many_lanes_are_read_at_once(
    tools: StoreTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tools.register(slots=100)
    keys = [f"key_{number}" for number in range(100)]
    await tools.store.submit([tools.new_job(key_id=key) for key in 3 * keys])
    asked: list[str] = []
    for name in ("all", "among", "one"):
        monkeypatch.setattr(Transaction, name, _noting(getattr(Transaction, name), asked))
    for _ in range(3):
        asked.clear()
        leased = await tools.claim(max_jobs=16)
        assert len({one.job.key_id for one in leased}) == 16
        assert sum("queue" in statement for statement in asked) == 2, "the lanes, their heads"


def _noting(method: Any, asked: list[str]) -> Any:
    def noted(self: Transaction, statement: Any, *others: Any, **more: Any) -> Any:
        asked.append(statement if isinstance(statement, str) else statement.sqlite)
        return method(self, statement, *others, **more)

    return noted


async def test_kinds_of_waiting_jobs_are_told_once_however_many_keys_have_some(
    tools: StoreTools,
) -> None:
    for key in range(70):
        await wait(tools, 1, key_id=f"key_{key}", priority=5 + (key == 3))
    await wait(tools, 2, key_id="key_0", family="other", is_batch=True)
    told = await tools.store.waiting_lanes()
    shown = [(lane.model.family, lane.priority, lane.jobs) for lane in told]
    assert shown == [("tiny", 6, 16), ("other", 5, 2)]


async def test_among_keys_too_a_worker_is_given_one_suspect(tools: StoreTools) -> None:
    await tools.register(slots=20)
    suspects = {job for key in "ab" for job in await wait(tools, 3, key_id=key)}
    for number in range(2):
        assert len(await tools.claim(max_jobs=10)) == 6
        await tools.register(instance=f"process {number}", slots=20)
        tools.clock.turn(300)
        await tools.store.promote_due()
    for key in "ab":
        await wait(tools, 10, key_id=key)
    leased = await tools.claim(max_jobs=8)
    assert len(suspects & {one.job.job_id for one in leased}) == 1
    assert Counter(one.job.key_id for one in leased) == {"a": 4, "b": 4}
