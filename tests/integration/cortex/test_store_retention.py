"""The behaviour of every store, part 9: what is kept no longer, and what is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from cortex_tools import LEASE, StoreFactory, StoreTools, TurnableClock
from store_chaos import WORKERS, Chaos, check_books

from mnemos.cortex.errors import ConflictError, JobNotFoundError, LogPrunedError
from mnemos.cortex.notifier import LocalNotifier
from mnemos.cortex.records import (
    Chunk,
    DeadLetters,
    Fence,
    FinishedRow,
    JobFilter,
    PrunedStep,
    Report,
)
from mnemos.cortex.retention import FOR_EVER, Pruned, RetentionPruner
from mnemos.cortex.sql import pruning
from mnemos.cortex.sql.postgres.store import PostgresStore
from mnemos.cortex.sql.store import SqlStore
from mnemos.cortex.state_machine import TERMINAL, JobState
from mnemos.cortex.store import Store
from mnemos.engram.errors import AccessDeniedError, StorageUnavailableError

DAY = 86_400.0
LOGS, JOBS = 7 * DAY, 30 * DAY
TABLES = ("jobs", "job_inputs", "job_results", "attempts", "job_events")


def pruner(tools: StoreTools, *, jobs: float = JOBS, logs: float = LOGS) -> RetentionPruner:
    return RetentionPruner(tools.store, jobs_seconds=jobs, logs_seconds=logs)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnemos.cortex.retention.PAUSE_FACTOR", 0.0)
    monkeypatch.setattr("mnemos.cortex.retention.SHORTEST_PAUSE_SECONDS", 0.0)


async def complete(tools: StoreTools, *contents: str, **changes: Any) -> str:
    """A job that streamed something and completed."""
    job_id = await tools.hold(**changes)
    chunks = [Chunk(job_id, 1, place, text, [place]) for place, text in enumerate(contents)]
    if chunks:
        await tools.store.append_chunks("wrk_a", chunks)
    said = Report(job_id=job_id, attempt=1, status=JobState.COMPLETED, result='"done"')
    await tools.store.report("wrk_a", [said])
    return job_id


async def prune_jobs(tools: StoreTools, position: int = 0) -> PrunedStep:
    """One step."""
    return await tools.store.prune_jobs(await tools.store.find_old_jobs(JOBS, position))


async def log_of(tools: StoreTools, job_id: str, start: int = 0) -> list[tuple[int, str]]:
    page = await tools.store.read_events(job_id, start, 10_000)
    return [(event.sequence, event.kind) for event in page.events]


async def count_rows(tools: StoreTools, table: str) -> int:
    store = tools.store
    assert isinstance(store, SqlStore)
    query = f"SELECT COUNT(*) AS n FROM {table}"  # noqa: S608  a name from this file
    return int(await store._readers.run(lambda db: db.execute(query).fetchone()["n"]))


# ------------------------------------------------ logs


async def test_a_log_goes_when_its_time_is_over_and_the_job_stays(tools: StoreTools) -> None:
    job_id = await complete(tools, "a", "b")
    log = await log_of(tools, job_id)
    attempts = await tools.store.get_attempts(job_id)
    tools.clock.turn(LOGS - 1)
    assert await pruner(tools).run_once() == Pruned()
    assert await log_of(tools, job_id) == log
    tools.clock.turn(1)
    assert await pruner(tools).run_once() == Pruned(logs=1)
    with pytest.raises(LogPrunedError, match=f"log of job {job_id} is kept no longer"):
        await log_of(tools, job_id)
    job = await tools.store.get_job(job_id)
    assert (job.status, job.result) == (JobState.COMPLETED, '"done"')
    assert await tools.store.get_attempts(job_id) == attempts
    assert await count_rows(tools, "job_events") == 0
    assert await pruner(tools).run_once() == Pruned()
    await check_books(tools)


async def test_a_reader_who_had_everything_is_told_the_end(tools: StoreTools) -> None:
    job_id = await complete(tools, "a")
    last, _ = (await log_of(tools, job_id))[-1]
    tools.clock.turn(LOGS)
    await pruner(tools).run_once()
    page = await tools.store.read_events(job_id, last + 1, 10)
    assert (list(page.events), page.ended) == ([], True)
    with pytest.raises(LogPrunedError):
        await tools.store.read_events(job_id, last, 10)


@pytest.mark.parametrize("redriven", [False, True])
async def test_a_log_goes_on_where_it_stopped_when_its_job_is_retried(
    tools: StoreTools, redriven: bool
) -> None:
    job_id = await tools.hold(max_retries=0)
    await tools.store.append_chunks("wrk_a", [Chunk(job_id, 1, 0, "void", [1])])
    said = Report(job_id=job_id, attempt=1, status=JobState.FAILED, error="no")
    await tools.store.report("wrk_a", [said])
    last, _ = (await log_of(tools, job_id))[-1]
    tools.clock.turn(LOGS)
    await pruner(tools).run_once()
    if redriven:
        await redrive_all(tools)
    else:
        await tools.store.retry_job(job_id)
    [leased] = await tools.claim()
    assert (leased.job.attempt, leased.progress) == (2, None)
    await tools.store.append_chunks("wrk_a", [Chunk(job_id, 2, 0, "new", [2])])
    expected = [
        (last + 1, "restart"),
        (last + 2, "state"),
        (last + 3, "state"),
        (last + 4, "token"),
    ]
    for start in (0, last, last + 1):
        assert await log_of(tools, job_id, start) == expected
    assert await log_of(tools, job_id, last + 4) == expected[-1:]
    restart = (await tools.store.read_events(job_id, 0, 1)).events[0]
    assert json.loads(restart.data)["attempt"] == 2
    await check_books(tools)


async def redrive_all(tools: StoreTools) -> None:
    assert (await tools.store.redrive(DeadLetters(), 0, 10)).jobs == 1


async def test_a_job_that_was_retried_keeps_its_log_until_it_ended_again(tools: StoreTools) -> None:
    job_id = await tools.hold(max_retries=0)
    said = Report(job_id=job_id, attempt=1, status=JobState.FAILED, error="no")
    await tools.store.report("wrk_a", [said])
    tools.clock.turn(LOGS)
    await tools.store.retry_job(job_id)
    assert await pruner(tools).run_once() == Pruned()
    await tools.store.cancel_job(job_id)
    tools.clock.turn(LOGS - 1)
    assert await pruner(tools).run_once() == Pruned()
    assert (await log_of(tools, job_id))[0] == (0, "state")
    tools.clock.turn(1)
    assert await pruner(tools).run_once() == Pruned(logs=1)
    await tools.store.retry_job(job_id)
    assert (await log_of(tools, job_id))[0][1] == "restart"


async def test_a_long_log_goes_in_small_steps_and_for_readers_at_once(
    tools: StoreTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "LINES_PER_STEP", 10)
    job_id = await tools.hold(job_type="batch_inference", row_count=40)
    row = [Chunk(job_id, 1, n, "", [], FinishedRow(n, "{}")) for n in range(40)]
    await tools.store.append_chunks("wrk_a", row)
    await tools.store.cancel_job(job_id)
    said = Report(job_id=job_id, attempt=1, status=JobState.CANCELLED)
    await tools.store.report("wrk_a", [said])
    short = await complete(tools, "a")
    tools.clock.turn(LOGS)
    before = await count_rows(tools, "job_events")
    step = await tools.store.prune_logs(LOGS, 0)
    assert await count_rows(tools, "job_events") == before - 10
    assert step.next_seq is not None
    with pytest.raises(LogPrunedError):
        await log_of(tools, job_id)
    # A retry now must not bring back what is left of the old rows.
    await tools.store.retry_job(job_id)
    [leased] = await tools.claim()
    assert (leased.job.job_id, list(leased.rows)) == (job_id, [])
    kinds = [kind for _, kind in await log_of(tools, job_id)]
    assert kinds[0] == "restart"
    assert "row" not in kinds
    steps = 0
    position: int | None = step.next_seq
    while position is not None:
        before = await count_rows(tools, "job_events")
        step = await tools.store.prune_logs(LOGS, position)
        assert before - await count_rows(tools, "job_events") <= 10
        position, steps = step.next_seq, steps + 1
        assert steps < 20
    with pytest.raises(LogPrunedError):
        await log_of(tools, short)
    await tools.store.cancel_job(job_id)
    said = Report(job_id=job_id, attempt=2, status=JobState.CANCELLED)
    await tools.store.report("wrk_a", [said])
    tools.clock.turn(LOGS)
    assert (await pruner(tools).run_once()).logs > 1
    assert await count_rows(tools, "job_events") == 0


# ------------------------------------------------ jobs


async def test_a_job_goes_with_all_that_is_its_own_and_no_book_misses_it(
    tools: StoreTools,
) -> None:
    old = await complete(tools, "a", group="g", idempotency_key="k")
    tools.clock.turn(DAY)
    young = await complete(tools, "b", group="g")
    tools.clock.turn(JOBS - DAY)
    assert await pruner(tools).run_once() == Pruned(logs=2, jobs=1)
    with pytest.raises(JobNotFoundError):
        await tools.store.get_job(old)
    with pytest.raises(JobNotFoundError):
        await tools.store.read_events(old, 0, 1)
    assert [job.job_id for job in await tools.store.list_jobs(JobFilter())] == [young]
    counts = await tools.store.group_counts("g")
    assert (counts.total, counts.finished) == (1, 1)
    for table in TABLES:
        assert await count_rows(tools, table) == (table != "job_events")
    await check_books(tools)


async def test_a_key_is_free_again_when_its_job_is_gone(tools: StoreTools) -> None:
    old = await complete(tools, idempotency_key="k")
    tools.clock.turn(JOBS - 1)
    await pruner(tools).run_once()
    [known] = await tools.store.submit([tools.new_job(idempotency_key="k")])
    assert (known.job_id, known.created) == (old, False)
    tools.clock.turn(1)
    await pruner(tools).run_once()
    other = tools.new_job(idempotency_key="k", request_hash="other")
    [stored] = await tools.store.submit([other])
    assert (stored.job_id, stored.created, stored.conflict) == (other.job_id, True, None)


async def test_who_still_speaks_of_a_job_that_is_gone_is_told_so(tools: StoreTools) -> None:
    job_id = await complete(tools)
    tools.clock.turn(JOBS)
    await pruner(tools).run_once()
    await tools.register()
    said = Report(job_id=job_id, attempt=1, status=JobState.COMPLETED, result='"done"')
    [verdict] = await tools.store.report("wrk_a", [said])
    assert verdict.verdict is Fence.STALE
    [ack] = await tools.store.append_chunks("wrk_a", [Chunk(job_id, 1, 0, "a", [1])])
    assert ack.verdict is Fence.STALE
    for call in (tools.store.cancel_job, tools.store.retry_job):
        with pytest.raises(JobNotFoundError):
            await call(job_id)
    for table in TABLES:
        assert await count_rows(tools, table) == 0


async def test_numbers_of_jobs_that_are_gone_are_not_used_again(
    tools: StoreTools, store_factory: StoreFactory
) -> None:
    job_id = await complete(tools)
    last = (await tools.store.get_job(job_id)).seq
    tools.clock.turn(JOBS)
    await pruner(tools).run_once()
    await tools.store.__aexit__(None, None, None)  # type: ignore[attr-defined]  # closed early
    async with store_factory() as again:
        [stored] = await again.submit([tools.new_job()])
        assert (await again.get_job(stored.job_id)).seq > last


async def test_what_has_not_ended_is_kept_however_old_it_is(tools: StoreTools) -> None:
    running = await tools.hold(timeout_seconds=3600)
    await tools.store.append_chunks("wrk_a", [Chunk(running, 1, 0, "a", [1])])
    waiting = await tools.submit(group="g")
    delayed = await tools.submit(max_retries=5)
    [leased] = [one for one in await tools.claim(max_jobs=2) if one.job.job_id == delayed]
    failed = Report(job_id=delayed, attempt=1, status=JobState.FAILED, error="no", retryable=True)
    await tools.store.report("wrk_a", [failed])
    assert leased.job.attempt == 1
    done = await complete(tools)
    logs = {job_id: await log_of(tools, job_id) for job_id in (running, waiting, delayed)}
    tools.clock.turn(1000 * DAY)
    assert await pruner(tools).run_once() == Pruned(logs=1, jobs=1)
    with pytest.raises(JobNotFoundError):
        await tools.store.get_job(done)
    for job_id, log in logs.items():
        assert (await tools.store.get_job(job_id)).status not in TERMINAL
        assert await log_of(tools, job_id) == log
    await check_books(tools)


@pytest.mark.parametrize(
    ("kept", "after_a_week", "after_a_month"),
    [
        ({"jobs": FOR_EVER, "logs": FOR_EVER}, Pruned(), Pruned()),
        ({"jobs": FOR_EVER, "logs": LOGS}, Pruned(logs=1), Pruned()),
        ({"jobs": JOBS, "logs": FOR_EVER}, Pruned(), Pruned(logs=1, jobs=1)),
        ({"jobs": LOGS, "logs": JOBS}, Pruned(logs=1, jobs=1), Pruned()),
    ],
)
async def test_each_is_kept_as_long_as_was_said(
    tools: StoreTools, kept: dict[str, float], after_a_week: Pruned, after_a_month: Pruned
) -> None:
    await complete(tools, "a")
    tools.clock.turn(LOGS)
    assert await pruner(tools, **kept).run_once() == after_a_week
    tools.clock.turn(JOBS - LOGS)
    assert await pruner(tools, **kept).run_once() == after_a_month


async def test_a_step_takes_no_more_than_it_may(tools: StoreTools) -> None:
    many = 2 * pruning.JOBS_PER_STEP + 50
    await tools.store.submit([tools.new_job(group="g") for _ in range(many)])
    await tools.store.cancel_group("g")
    waiting = await tools.submit()
    tools.clock.turn(JOBS)
    for of_logs in (True, False):
        taken: list[int] = []
        position: int | None = 0
        while position is not None:
            before = await count_rows(tools, "jobs")
            if of_logs:
                step = await tools.store.prune_logs(JOBS, position)
            else:
                step = await prune_jobs(tools, position)
            gone = before - await count_rows(tools, "jobs")
            assert gone == (0 if of_logs else step.jobs)
            taken.append(step.jobs)
            position = step.next_seq
            await check_books(tools)
        assert sum(taken) == many
        assert max(taken) == pruning.JOBS_PER_STEP
    assert (await tools.store.get_job(waiting)).status is JobState.PENDING


async def test_big_jobs_go_a_few_at_a_time(
    tools: StoreTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "BYTES_PER_STEP", 2500)
    big = '"' + "a" * 1000 + '"'
    for _ in range(5):
        job_id = await tools.submit(input=big)
        await tools.store.cancel_job(job_id)
    tools.clock.turn(JOBS)
    await tools.store.prune_logs(JOBS, 0)
    steps, position = [], 0
    while True:
        step = await prune_jobs(tools, position)
        steps.append(step.jobs)
        if step.next_seq is None:
            break
        position = step.next_seq
    assert steps == [2, 2, 1]


async def test_a_clock_that_was_wrong_for_a_while_keeps_nothing_for_ever(
    tools: StoreTools,
) -> None:
    tools.clock.turn(1000 * DAY)
    late = await complete(tools)
    tools.clock.turn(-1000 * DAY)
    job_id = await complete(tools, "a")
    tools.clock.turn(JOBS)
    assert await pruner(tools).run_once() == Pruned(logs=1, jobs=1)
    assert set(await state_of(tools.store)) == {late}
    with pytest.raises(JobNotFoundError):
        await tools.store.get_job(job_id)


async def test_young_jobs_are_not_looked_through(
    tools: StoreTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "LOOKED_AT_PER_STEP", 5)
    monkeypatch.setattr(pruning, "JOBS_PER_STEP", 3)
    for group, count in (("old", 7), ("young", 30)):
        await tools.store.submit([tools.new_job(group=group) for _ in range(count)])
        await tools.store.cancel_group(group)
        tools.clock.turn(JOBS / 2)
    tools.clock.turn(1)
    for of_logs in (True, False):
        taken: list[int] = []
        position: int | None = 0
        while position is not None:
            if of_logs:
                step = await tools.store.prune_logs(JOBS, position)
            else:
                step = await prune_jobs(tools, position)
            taken.append(step.jobs)
            position = step.next_seq
        assert sum(taken) == 7
        assert len(taken) < 6


async def test_a_job_does_not_go_before_its_log(tools: StoreTools) -> None:
    job_id = await complete(tools, "a")
    tools.clock.turn(JOBS)
    assert (await prune_jobs(tools)).jobs == 0
    await tools.store.get_job(job_id)
    await tools.store.prune_logs(JOBS, 0)
    assert (await prune_jobs(tools)).jobs == 1


class Answers:
    """Answers in ENGRAM; `trouble` says of which jobs they cannot be removed."""

    def __init__(self, *, passing: bool = False) -> None:
        self.trouble: set[str] = set()
        self.asked: list[str] = []
        self._passing = passing

    async def delete_job(self, job_id: str) -> int:
        self.asked.append(job_id)
        if job_id in self.trouble:
            raise StorageUnavailableError("gone") if self._passing else AccessDeniedError("no")
        return 1


@pytest.mark.parametrize("passing", [True, False])
async def test_an_answer_in_engram_goes_before_its_job(tools: StoreTools, passing: bool) -> None:
    small = await complete(tools)
    first, second, third = [await store_answer(tools) for _ in range(3)]
    answers = Answers(passing=passing)
    answers.trouble = {second}
    rounds = RetentionPruner(tools.store, answers, jobs_seconds=JOBS, logs_seconds=LOGS)
    tools.clock.turn(JOBS)
    done = await rounds.run_once()
    asked = [first, second] if passing else [first, second, third]
    assert (answers.asked, done.jobs) == (asked, len(asked))
    left = {second, third} if passing else {second}
    assert set(await state_of(tools.store)) == left
    assert small not in answers.asked
    answers.trouble.clear()
    assert (await rounds.run_once()).jobs == len(left)
    assert set(answers.asked) == {first, second, third}
    await check_books(tools)


async def store_answer(tools: StoreTools) -> str:
    """A job whose answer was too large for a message."""
    job_id = await tools.hold()
    where = {"engram": f"b/jobs/{job_id}/1/result.json", "size_bytes": 9, "sha256": "0"}
    result = json.dumps({"result_reference": where})
    said = Report(job_id=job_id, attempt=1, status=JobState.COMPLETED, result=result)
    await tools.store.report("wrk_a", [said])
    return job_id


async def test_a_groups_cursor_holds_across_pruning(tools: StoreTools) -> None:
    first, second, third = [await complete(tools, group="g", family=name) for name in "abc"]
    [read] = await tools.store.group_results("g", 0, 1)
    assert read.job_id == first
    position = read.finish_seq or 0
    tools.clock.turn(DAY)
    fourth = await complete(tools, group="g", family="d")
    tools.clock.turn(JOBS - DAY)
    assert (await pruner(tools).run_once()).jobs == 3
    rest = await tools.store.group_results("g", position, 10)
    assert [job.job_id for job in rest] == [fourth]
    for job_id in (second, third):
        with pytest.raises(JobNotFoundError):
            await tools.store.get_job(job_id)


async def test_a_group_without_jobs_leaves_no_counts_behind(tools: StoreTools) -> None:
    for name in ("g", "h"):
        await complete(tools, group=name)
    waiting = await tools.submit(group="h")
    tools.clock.turn(JOBS)
    await pruner(tools).run_once()
    store = tools.store
    assert isinstance(store, SqlStore)
    query = "SELECT scope, name, value FROM tallies WHERE scope LIKE 'group/%' ORDER BY name"
    rows = await store._readers.run(
        lambda db: [(row["scope"], row["name"], row["value"]) for row in db.execute(query)]
    )
    assert rows == [("group/h", "pending", 1)]
    await tools.store.cancel_job(waiting)
    assert (await tools.store.group_counts("h")).finished == 1
    await tools.submit(group="g")
    assert (await tools.store.group_counts("g")).pending == 1


# ------------------------------------------------ with others at work


async def test_what_was_found_and_is_retried_by_then_is_left_alone(tools: StoreTools) -> None:
    store = tools.store
    assert isinstance(store, SqlStore)
    job_id = await tools.submit()
    await store.cancel_job(job_id)
    tools.clock.turn(JOBS)
    before = tools.clock.now - JOBS
    due = await store._readers.run(lambda db: pruning.find_logs(db, before, 0))
    assert len(due.seqs) == 1
    await store.retry_job(job_id)
    assert (await store._writer.run(lambda tx: pruning.prune_logs(tx, due))).jobs == 0
    assert (await log_of(tools, job_id))[0] == (0, "state")
    await store.cancel_job(job_id)
    tools.clock.turn(JOBS)
    await store.prune_logs(JOBS, 0)
    old = await store.find_old_jobs(JOBS, 0)
    assert len(old.seqs) == 1
    await store.retry_job(job_id)
    await store._writer.run(lambda tx: tx.run("DELETE FROM job_events", {}))
    assert (await store.prune_jobs(old)).jobs == 0
    assert (await store.get_job(job_id)).status is JobState.PENDING


class LongLife(Chaos):
    """Chaos in which a job may be gone by the time that somebody asks for it."""

    async def _allowed(self, call: object) -> None:
        try:
            await call(self.random.choice(self.jobs))  # type: ignore[operator]  # a store's method
        except (ConflictError, JobNotFoundError):
            return


async def state_of(store: Store) -> dict[str, JobState]:
    return {job.job_id: job.status for job in await store.list_jobs(JobFilter(limit=10_000))}


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_nothing_that_has_not_ended_is_lost(
    tools: StoreTools, seed: int
) -> None:
    for worker_id in WORKERS:
        await tools.register(worker_id)
    chaos = LongLife(tools, seed)
    gone: set[str] = set()
    logs_gone = 0
    for number in range(400):
        await chaos.step()
        if number % 10:
            continue
        before = await state_of(tools.store)
        done = await pruner(tools, jobs=40, logs=10).run_once()
        after = await state_of(tools.store)
        lost = set(before) - set(after)
        assert {before[job_id] for job_id in lost} <= TERMINAL
        assert {job_id: before[job_id] for job_id in after} == after
        assert len(lost) == done.jobs
        gone |= lost
        logs_gone += done.logs
        await check_books(tools)
    assert len(gone) > 5
    assert logs_gone > len(gone)
    assert set(await state_of(tools.store)) == set(chaos.jobs) - gone
    assert set(chaos.accepted.values()) == {1}


async def test_two_replicas_prune_beside_each_other_and_beside_others(
    postgres_url: str, clock: TurnableClock
) -> None:
    many = 700
    async with (
        PostgresStore(postgres_url, LocalNotifier(), lease_seconds=LEASE, clock=clock) as one,
        PostgresStore(postgres_url, LocalNotifier(), lease_seconds=LEASE, clock=clock) as two,
    ):
        first = StoreTools(one, clock, LocalNotifier())
        second = StoreTools(two, clock, LocalNotifier())
        await one.submit([first.new_job(group="g") for _ in range(many)])
        await one.cancel_group("g")
        clock.turn(JOBS)
        submitted: list[str] = []

        async def old_jobs() -> int:
            return (await one.totals()).jobs["cancelled"]

        async def prune(tools: StoreTools) -> int:
            done = 0
            while await old_jobs():
                done += (await pruner(tools).run_once()).jobs
            return done

        async def submit() -> None:
            while await old_jobs():
                submitted.append(await second.submit(group="h"))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(prune(tools)) for tools in (first, second)]
            group.create_task(submit())
        assert sum(task.result() for task in tasks) == many
        assert submitted
        assert set(await state_of(one)) == set(submitted)
        assert (await one.group_counts("h")).pending == len(submitted)
        assert (await one.group_counts("g")).total == 0
        await check_books(first)


async def test_pruning_beside_a_load_takes_only_what_was_answered(tools: StoreTools) -> None:
    many = 300
    answered: set[str] = set()
    gone = Pruned()
    for worker_id in ("wrk_a", "wrk_b"):
        await tools.register(worker_id)

    async def submit() -> None:
        for _ in range(many // 10):
            await tools.store.submit([tools.new_job(group="g") for _ in range(10)])

    async def work(worker_id: str) -> None:
        while len(answered) < many:
            for leased in await tools.claim(worker_id, max_jobs=4):
                job_id = leased.job.job_id
                await tools.store.append_chunks(worker_id, [Chunk(job_id, 1, 0, "t", [1])])
                tools.clock.turn(0.01)
                said = Report(job_id=job_id, attempt=1, status=JobState.COMPLETED, result="1")
                [verdict] = await tools.store.report(worker_id, [said])
                assert verdict.verdict is Fence.ACCEPTED
                assert job_id not in answered
                answered.add(job_id)

    async def prune() -> None:
        nonlocal gone
        while len(answered) < many:
            done = await pruner(tools, jobs=0.2, logs=0.1).run_once()
            gone = Pruned(gone.logs + done.logs, gone.jobs + done.jobs)
            assert gone.jobs <= gone.logs <= len(answered)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(submit())
        for worker_id in ("wrk_a", "wrk_b"):
            group.create_task(work(worker_id))
        group.create_task(prune())
    assert gone.jobs > many // 4
    assert len(await state_of(tools.store)) == many - gone.jobs
    await check_books(tools)
