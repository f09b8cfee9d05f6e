"""What the outbox keeps, in which order, and what it does when the disk does not play along."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from neuron.models.job import (
    ErrorDetails,
    JobOutput,
    JobResult,
    JobStatus,
    Requirements,
    ResumeState,
    RowResult,
    StreamChunk,
)
from neuron.models.lease import AcquiredJobs, AttemptRef, ReleasedJob
from neuron.services.outbox.changes import LeftBehind
from neuron.services.outbox.outbox import LINGER_SECONDS, Outbox
from neuron.services.poller import JobPollerService
from neuron.services.slots import SlotPool
from neuron.utils.metrics import WorkerMetrics

MB = 1_000_000
REF = AttemptRef("job_1", 2)


def result_of(ref: AttemptRef, text: object = "all of it") -> JobResult:
    return JobResult(
        job_id=ref.job_id,
        attempt=ref.attempt,
        status=JobStatus.COMPLETED,
        output=JobOutput(result=text, metadata={"finish_reason": "stop"}, metrics={"x": 1.5}),
        error_details=ErrorDetails(retryable=True, exception_type="KeyError"),
        worker_id="wrk_1",
        started_at=datetime.now(UTC),
    )


def chunk(ref: AttemptRef, sequence: int, text: str = "t") -> StreamChunk:
    return StreamChunk(
        job_id=ref.job_id, attempt=ref.attempt, sequence=sequence, content=text, token_ids=[7]
    )


@asynccontextmanager
async def opened(root: Path, limit: int = MB) -> AsyncIterator[tuple[Outbox, LeftBehind]]:
    outbox = Outbox(root, "worker", limit)
    found = await outbox.open()
    try:
        yield outbox, found
    finally:
        await outbox.close()


async def left_in(root: Path) -> LeftBehind:
    async with opened(root) as (_, found):
        return found


async def poll_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - looks at a disk, which has no event for it
            await asyncio.sleep(0.01)


async def test_what_was_kept_is_there_for_the_next_process_as_it_was(tmp_path: Path) -> None:
    result = result_of(REF, {"rows": ["漢字", 0.1, None, 2**53]})
    handed_back = ReleasedJob(
        AttemptRef("job_2", 1),
        "it is too big",
        ResumeState(token_ids=[1, 2], text="ab", rows=[RowResult(index=0, result={"a": 1})]),
        Requirements(min_memory_mb=7),
    )
    chunks = [chunk(REF, sequence, f"t{sequence}") for sequence in range(3, 6)]
    async with opened(tmp_path) as (outbox, nothing):
        assert nothing == LeftBehind()
        outbox.name_worker("wrk_1")
        outbox.keep_report(handed_back.ref, handed_back)
        outbox.keep_report(REF, result, lambda: chunks)

    found = await left_in(tmp_path)

    assert found.worker_id == "wrk_1"
    assert list(found.reports) == [handed_back.ref, REF], "not in the order in which they came"
    assert found.reports == {handed_back.ref: handed_back, REF: result}
    assert found.chunks == {REF: chunks}


async def test_what_cortex_judged_is_gone_with_its_chunks(tmp_path: Path) -> None:
    other = AttemptRef("job_2", 1)
    async with opened(tmp_path) as (outbox, _):
        outbox.keep_chunks(REF, [chunk(REF, 0)])
        outbox.keep_report(REF, result_of(REF))
        outbox.keep_chunks(other, [chunk(other, 0), chunk(other, 1), chunk(other, 2)])
        await outbox.write()
        outbox.forget(REF)
        outbox.forget_chunks(other, 2)

    found = await left_in(tmp_path)

    assert found.reports == {}
    assert found.chunks == {other: [chunk(other, 2).model_copy(update=_stamp(found, other))]}


def _stamp(found: LeftBehind, ref: AttemptRef) -> dict[str, datetime]:
    return {"timestamp": found.chunks[ref][0].timestamp}


async def test_what_cortex_acknowledges_at_once_never_touches_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, _), asyncio.TaskGroup() as tasks:
        await outbox.start(tasks)
        with sqlite3.connect(tmp_path / "worker-1" / "outbox.db") as watcher:
            before = watcher.execute("PRAGMA data_version").fetchone()
            for number in range(50):
                ref = AttemptRef(f"job_{number}", 1)
                outbox.keep_report(ref, result_of(ref))
                outbox.forget(ref)
            await outbox.write()
            assert watcher.execute("PRAGMA data_version").fetchone() == before
            outbox.keep_report(REF, result_of(REF))
            await poll_until(lambda: _data_version(watcher) != before)
        await outbox.stop()
        watcher.close()


async def test_a_steady_flow_that_cortex_keeps_up_with_never_touches_the_disk(
    tmp_path: Path,
) -> None:
    """However its moments of writing fall, something has just been reported."""
    async with opened(tmp_path) as (outbox, _), asyncio.TaskGroup() as tasks:
        await outbox.start(tasks)
        with sqlite3.connect(tmp_path / "worker-1" / "outbox.db") as watcher:
            before = watcher.execute("PRAGMA data_version").fetchone()
            clock = asyncio.get_running_loop().time
            end = clock() + 8 * LINGER_SECONDS
            unjudged: list[tuple[float, AttemptRef]] = []
            while clock() < end:
                ref = AttemptRef(f"job_{clock()}", 1)
                outbox.keep_report(ref, result_of(ref))
                unjudged.append((clock(), ref))
                await asyncio.sleep(LINGER_SECONDS / 20)
                while unjudged and clock() - unjudged[0][0] > LINGER_SECONDS / 4:
                    outbox.forget(unjudged.pop(0)[1])
            for _, ref in unjudged:
                outbox.forget(ref)
            assert watcher.execute("PRAGMA data_version").fetchone() == before
        await outbox.stop()
        watcher.close()


def _data_version(watcher: sqlite3.Connection) -> object:
    return watcher.execute("PRAGMA data_version").fetchone()


async def test_what_is_judged_while_it_is_written_is_gone_too(tmp_path: Path) -> None:
    other = AttemptRef("job_2", 1)
    async with opened(tmp_path) as (outbox, _), asyncio.TaskGroup() as tasks:
        outbox.keep_report(REF, result_of(REF))
        first = tasks.create_task(outbox.write())
        await asyncio.sleep(0)
        outbox.forget(REF)
        outbox.keep_report(other, result_of(other))
        second = tasks.create_task(outbox.write())
        await asyncio.sleep(0)
        first.cancel()
        await second
        outbox.forget(other)

    assert await left_in(tmp_path) == LeftBehind()


async def test_every_process_has_a_folder_of_its_own_and_finds_that_of_a_dead_one(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as (first, _):
        first.name_worker("wrk_first")
        async with opened(tmp_path) as (second, _):
            second.name_worker("wrk_second")

    async with opened(tmp_path) as (_, one), opened(tmp_path) as (_, two):
        assert {one.worker_id, two.worker_id} == {"wrk_first", "wrk_second"}


async def test_the_folder_that_was_used_last_is_taken_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as (first, _), opened(tmp_path) as (second, _):
        first.name_worker("wrk_first")
        second.name_worker("wrk_second")
        await first.close()
        second.keep_report(REF, result_of(REF))
    for name, used_at in (("worker-1", 1000), ("worker-2", 2000)):
        for path in (tmp_path / name).glob("*.db*"):
            os.utime(path, (used_at, used_at))

    assert (await left_in(tmp_path)).worker_id == "wrk_second"


async def test_a_full_outbox_says_so_and_takes_what_was_refused_when_there_is_room(
    tmp_path: Path,
) -> None:
    big, small = AttemptRef("job_big", 1), AttemptRef("job_small", 1)
    async with opened(tmp_path, limit=100_000) as (outbox, _):
        outbox.keep_report(big, result_of(big, "x" * 90_000))
        outbox.keep_report(small, result_of(small, "y" * 20_000))
        assert await outbox.write()
        was_full, trouble = outbox.full, outbox.trouble
        outbox.forget(big)
        await outbox.write()
        async with asyncio.timeout(1):
            await outbox.wait_for_room()

    assert was_full
    assert trouble is None
    assert list((await left_in(tmp_path)).reports) == [small]


def shown(metrics: WorkerMetrics) -> dict[str, float | None]:
    return {
        name: metrics.registry.get_sample_value(f"neuron_outbox_{name}")
        for name in ("reports", "bytes", "full")
    }


async def test_metrics_say_what_is_on_disk_and_nothing_sooner(tmp_path: Path) -> None:
    metrics, other = WorkerMetrics(), AttemptRef("job_2", 1)
    outbox = Outbox(tmp_path, "worker", 100_000, metrics)
    await outbox.open()
    outbox.keep_report(REF, result_of(REF, "x" * 90_000), lambda: [chunk(REF, 0)])
    outbox.keep_report(other, result_of(other, "y" * 90_000))
    before = shown(metrics)
    await outbox.write()
    full = shown(metrics)
    outbox.forget(REF)
    outbox.forget(other)
    await outbox.write()
    after = shown(metrics)
    outbox.keep_report(other, result_of(other))
    await outbox.close()

    started_again = WorkerMetrics()
    again = Outbox(tmp_path, "worker", 100_000, started_again)
    await again.open()
    await again.close()

    empty = {"reports": 0, "bytes": 0, "full": 0}
    assert before == after == empty
    assert full["reports"] == 1
    assert full["full"] == 1
    assert 90_000 < float(full["bytes"] or 0) <= 100_000
    assert shown(started_again)["reports"] == 1
    assert float(shown(started_again)["bytes"] or 0) > 100


async def test_chunks_leave_room_for_results(tmp_path: Path) -> None:
    running = AttemptRef("job_running", 1)
    async with opened(tmp_path, limit=100_000) as (outbox, _):
        outbox.keep_chunks(running, [chunk(running, 0, "x" * 40_000)])
        outbox.keep_chunks(running, [chunk(running, 1, "x" * 40_000)])
        outbox.keep_report(REF, result_of(REF, "y" * 40_000), lambda: [chunk(REF, 0)])
        await outbox.write()
        found_full = outbox.full

    found = await left_in(tmp_path)
    assert found_full
    assert list(found.reports) == [REF]
    assert [each.sequence for each in found.chunks[running]] == [0]


class CountingCortex:
    """Has no jobs, and counts who asks."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def acquire_jobs(
        self, worker_id: str, max_jobs: int, wait_seconds: float, **more: object
    ) -> AcquiredJobs:
        self.asked.set()
        await asyncio.sleep(wait_seconds)
        return AcquiredJobs([], [])

    async def release_jobs(self, worker_id: str, jobs: object) -> dict[AttemptRef, object]:
        raise AssertionError("nothing to hand back")


class Executor:
    def __init__(self) -> None:
        self.slots = SlotPool(4)


async def test_no_jobs_are_asked_for_while_the_outbox_is_full(tmp_path: Path) -> None:
    cortex, executor = CountingCortex(), Executor()
    async with opened(tmp_path, limit=10) as (outbox, _), asyncio.TaskGroup() as tasks:
        outbox.keep_report(REF, result_of(REF))
        await outbox.write()
        poller = JobPollerService("wrk_1", cortex, executor, outbox=outbox)  # type: ignore[arg-type]
        await poller.start(tasks)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not cortex.asked.is_set()
        assert executor.slots.taken == 0
        outbox.forget(REF)
        await outbox.write()
        async with asyncio.timeout(5):
            await cortex.asked.wait()
        await poller.cancel()


async def test_an_unreadable_file_is_set_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, _):
        outbox.keep_report(REF, result_of(REF))
    path = tmp_path / "worker-1" / "outbox.db"
    path.write_bytes(b"this is no database " * 500)

    async with opened(tmp_path) as (outbox, found):
        assert found == LeftBehind()
        outbox.keep_report(REF, result_of(REF))

    assert list((await left_in(tmp_path)).reports) == [REF]
    (aside,) = path.parent.glob("outbox.db.corrupt-*")
    assert aside.read_bytes().startswith(b"this is no database")


async def test_a_body_that_is_no_report_is_set_aside_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as (outbox, _):
        outbox.keep_report(REF, result_of(REF))
    with sqlite3.connect(tmp_path / "worker-1" / "outbox.db") as connection:
        connection.execute("UPDATE reports SET body = x'7b7b'")
    connection.close()

    assert (await left_in(tmp_path)) == LeftBehind()
    assert list((tmp_path / "worker-1").glob("outbox.db.corrupt-*"))


async def test_a_file_that_breaks_while_in_use_is_written_anew_from_memory(tmp_path: Path) -> None:
    other = AttemptRef("job_2", 1)
    async with opened(tmp_path) as (outbox, _):
        outbox.name_worker("wrk_1")
        outbox.keep_report(REF, result_of(REF))
        await outbox.write()
        path = tmp_path / "worker-1" / "outbox.db"
        with sqlite3.connect(path) as other_connection:
            other_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other_connection.close()
        path.write_bytes(b"garbage" * 4096)
        outbox.keep_report(other, result_of(other))
        await outbox.write()
        await outbox.write()
        assert outbox.trouble is None

    found = await left_in(tmp_path)
    assert set(found.reports) == {REF, other}
    assert found.worker_id == "wrk_1"


async def test_a_folder_that_cannot_be_is_said_and_writing_goes_on_when_it_can(
    tmp_path: Path,
) -> None:
    root = tmp_path / "outbox"
    root.write_text("a file is in the way")
    async with opened(root) as (outbox, found):
        assert found == LeftBehind()
        trouble = str(outbox.trouble)
        outbox.keep_report(REF, result_of(REF))
        assert not await outbox.write()
        root.unlink()
        assert await outbox.write()
        assert outbox.trouble is None

    assert str(root) in trouble
    assert list((await left_in(root)).reports) == [REF]
