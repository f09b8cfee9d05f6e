"""Files and batches: what is kept, and who drives a batch."""

from __future__ import annotations

from dataclasses import replace

from cortex_tools import StoreTools

from mnemos.cortex.batches.records import (
    Batch,
    BatchState,
    Fault,
    LineError,
    Progress,
    StoredFile,
)
from mnemos.cortex.notifier import BATCHES_TOPIC


def batch_of(number: int) -> Batch:
    return Batch(
        batch_id=f"batch_{number}",
        endpoint="/v1/chat/completions",
        input_file_id=f"file_in_{number}",
        output_file_id=f"file_out_{number}",
        error_file_id=f"file_err_{number}",
        metadata={"who": "test"},
        created_at=1.0,
        expires_at=2.0,
    )


def file_of(number: int, purpose: str = "batch") -> StoredFile:
    return StoredFile(
        file_id=f"file_{number}",
        purpose=purpose,
        filename="in.jsonl",
        size_bytes=number,
        created_at=1.5,
    )


async def test_files_come_back_in_order(tools: StoreTools) -> None:
    kept = tools.store.batches
    for number in (1, 2, 3):
        await kept.add_file(file_of(number, "batch" if number < 3 else "evals"))
    assert await kept.get_file("file_2", 2.0) == replace(file_of(2), seq=2)
    assert await kept.get_file("file_9", 2.0) is None

    async def listed(
        purpose: str | None = None, after: str | None = None, *, oldest_first: bool = False
    ) -> list[str]:
        found = await kept.list_files(purpose, after, 2, oldest_first=oldest_first, now=2.0)
        return [file.file_id for file in found]

    assert await listed() == ["file_3", "file_2"]
    assert await listed(after="file_2") == ["file_1"]
    assert await listed(oldest_first=True) == ["file_1", "file_2"]
    assert await listed(after="file_2", oldest_first=True) == ["file_3"]
    assert await listed("evals") == ["file_3"]
    assert await listed(after="file_9") == [], "a client that ignores has_more must come to an end"
    await kept.add_file(replace(file_of(2), size_bytes=9))
    assert (await kept.get_file("file_2", 2.0) or file_of(0)).size_bytes == 9
    assert await kept.remove_file("file_2")
    assert not await kept.remove_file("file_2")


async def test_a_batch_comes_back_as_it_was_saved(tools: StoreTools) -> None:
    kept = tools.store.batches
    with tools.notifier.subscribe(BATCHES_TOPIC) as ear:
        await kept.add_batch(batch_of(1))
        assert await ear.wait(1), "drivers are told of a new batch"
    await kept.add_batch(batch_of(2))
    assert await kept.get_batch("batch_1") == replace(batch_of(1), seq=1)
    assert await kept.get_batch("batch_9") is None
    assert await kept.batch_of_file("file_err_2") == await kept.get_batch("batch_2")
    assert await kept.batch_of_file("file_in_2") is None
    assert [one.batch_id for one in await kept.list_batches(None, 5)] == ["batch_2", "batch_1"]
    assert [one.batch_id for one in await kept.list_batches("batch_2", 5)] == ["batch_1"]
    progress = Progress(
        errors=(LineError("invalid_json_line", "no", 3),),
        total=7,
        times={"failed": 5.0},
        ends_as=BatchState.EXPIRED,
    )
    await kept.own_batch("one", 10)
    assert await kept.is_read("file_in_1")
    assert await kept.save_batch("batch_1", "one", BatchState.FAILED, progress)
    saved = await kept.get_batch("batch_1")
    assert saved is not None
    assert (saved.state, saved.progress) == (BatchState.FAILED, progress)
    assert not await kept.is_read("file_in_1")


async def test_one_driver_at_a_time_owns_a_batch(tools: StoreTools) -> None:
    kept = tools.store.batches
    await kept.add_batch(batch_of(1))
    first = await kept.own_batch("one", 10)
    assert first is not None
    assert await kept.own_batch("two", 10) is None
    tools.clock.turn(9)
    assert await kept.keep_batch("batch_1", "one", 10)
    tools.clock.turn(9)
    assert await kept.own_batch("two", 10) is None
    tools.clock.turn(2)
    assert await kept.own_batch("two", 10) == first, "its driver is gone"
    assert not await kept.keep_batch("batch_1", "one", 10)
    assert not await kept.save_batch("batch_1", "one", BatchState.FAILED, Progress())
    assert (await kept.get_batch("batch_1")) == first
    await kept.leave_batches("two")
    assert await kept.own_batch("three", 10) == first
    assert await kept.save_batch("batch_1", "three", BatchState.COMPLETED, Progress())
    tools.clock.turn(60)
    assert await kept.own_batch("four", 10) is None, "it has ended"


async def test_only_what_has_not_ended_is_cancelled(tools: StoreTools) -> None:
    kept = tools.store.batches
    await kept.add_batch(batch_of(1))
    await kept.own_batch("one", 10)
    await kept.cancel_batch("batch_1")
    cancelled = await kept.get_batch("batch_1")
    assert cancelled is not None
    assert cancelled.cancelling_at == tools.clock.now
    tools.clock.turn(5)
    await kept.cancel_batch("batch_1")
    assert await kept.get_batch("batch_1") == cancelled, "the first time counts"
    await kept.add_batch(batch_of(2))
    await kept.own_batch("one", 10)
    await kept.save_batch("batch_2", "one", BatchState.COMPLETED, Progress())
    await kept.cancel_batch("batch_2")
    ended = await kept.get_batch("batch_2")
    assert ended is not None
    assert ended.cancelling_at is None


async def test_faults_are_kept_once_and_in_order(tools: StoreTools) -> None:
    kept = tools.store.batches
    faults = [Fault(line, f"id-{line}", 400, "{}") for line in (4, 2, 9)]
    await kept.add_faults("batch_1", faults)
    await kept.add_faults("batch_1", [*faults, Fault(5, "id-5", 404, "{}")])
    await kept.add_faults("batch_2", [Fault(1, "other", 400, "{}")])
    assert [one.line for one in await kept.faults("batch_1", 0, 3)] == [2, 4, 5]
    assert await kept.faults("batch_1", 5, 3) == [faults[2]]
