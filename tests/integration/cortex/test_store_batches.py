"""Files and batches: what is kept, and who drives a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from cortex_tools import StoreTools

from mnemos.cortex.batches.objects import DEFAULT_BUCKET, FileObjects
from mnemos.cortex.batches.records import (
    Batch,
    BatchState,
    EndedLines,
    Fault,
    LineError,
    PartVerdict,
    Progress,
    StoredFile,
    Upload,
    UploadState,
)
from mnemos.cortex.batches.sweeping import STEP, FileSweeper
from mnemos.cortex.notifier import BATCHES_TOPIC
from mnemos.cortex.records import Report
from mnemos.cortex.state_machine import JobState
from mnemos.cortex.webhooks.records import DeliveryState
from mnemos.engram.store import ObjectStore


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
    await kept.leave_batches("two")
    assert await kept.own_batch("two", 10) is None
    await kept.leave_batches(None)
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


async def test_files_are_there_while_they_are_whole_and_their_time_lasts(tools: StoreTools) -> None:
    kept = tools.store.batches
    await kept.add_file(replace(file_of(1), whole=False, expires_at=50.0, key_id="key_1"))
    await kept.add_file(replace(file_of(2), expires_at=20.0))
    await kept.add_file(replace(file_of(3), expires_at=20.0))
    await kept.add_batch(replace(batch_of(1), input_file_id="file_3", key_id="key_1"))
    assert await kept.get_file("file_1", 2.0) is None
    assert await kept.finish_file(replace(file_of(1), size_bytes=7, expires_at=30.0))
    assert not await kept.finish_file(file_of(9))
    known = await kept.get_file("file_1", 2.0)
    assert known is not None
    assert (known.size_bytes, known.expires_at, known.key_id) == (7, 30.0, "key_1")
    assert await kept.get_file("file_2", 20.0) is None
    assert await kept.get_file("file_3", 99.0) is not None, "a batch reads it"

    async def listed(now: float, key_id: str | None = None) -> list[str]:
        found = await kept.list_files(None, None, 9, oldest_first=True, now=now, key_id=key_id)
        return [file.file_id for file in found]

    assert await listed(2.0) == ["file_1", "file_2", "file_3"]
    assert await listed(2.0, "key_1") == ["file_1"]
    assert await listed(25.0) == ["file_1", "file_3"]
    assert await kept.expired_files(99.0, 9) == ["file_2", "file_1"]
    assert [one.batch_id for one in await kept.list_batches(None, 9, "key_1")] == ["batch_1"]
    assert await kept.list_batches(None, 9, "key_2") == []


def upload_of(number: int) -> Upload:
    return Upload(
        upload_id=f"upload_{number}",
        key_id="",
        purpose="batch",
        filename="in.jsonl",
        size_bytes=10,
        created_at=1.0,
        expires_at=100.0,
        clean_at=100.0,
    )


async def test_an_upload_ends_once(tools: StoreTools) -> None:
    kept = tools.store.batches
    for number in (1, 2, 3):
        await kept.add_upload(upload_of(number))
    assert await kept.get_upload("upload_1") == upload_of(1)
    assert await kept.add_part("upload_1", "part_1", 10, 5.0) is PartVerdict.ADDED
    assert await kept.add_part("upload_1", "part_2", 10, 5.0) is PartVerdict.ADDED, "sent twice"
    assert await kept.add_part("upload_1", "part_3", 1, 5.0) is PartVerdict.TOO_MUCH
    assert await kept.add_part("upload_2", "part_4", 1, 100.0) is PartVerdict.ENDED
    assert await kept.part_sizes("upload_1") == {"part_1": 10, "part_2": 10}

    await kept.add_file(replace(file_of(1), whole=False))
    made = await kept.complete_upload("upload_1", ["part_1"], file_of(1))
    assert made is not None
    assert (made.state, made.file_id, made.part_ids) == (
        UploadState.COMPLETED,
        "file_1",
        ("part_1",),
    )
    assert await kept.get_file("file_1", 2.0) is not None
    await kept.add_file(replace(file_of(2), whole=False))
    assert await kept.complete_upload("upload_1", ["part_2"], file_of(2)) == made
    assert await kept.get_file("file_2", 2.0) is None, "the first file is the upload's"
    assert await kept.cancel_upload("upload_1", 5.0) == made
    cancelled = await kept.cancel_upload("upload_2", 5.0)
    assert cancelled is not None
    assert cancelled.state is UploadState.CANCELLED
    assert await kept.add_part("upload_2", "part_5", 1, 5.0) is PartVerdict.ENDED

    async def due(now: float) -> list[tuple[str, UploadState]]:
        found = await kept.uploads_to_clean(now, 9)
        return sorted((one.upload_id, one.state) for one in found)

    ended = [("upload_1", UploadState.COMPLETED), ("upload_2", UploadState.CANCELLED)]
    assert await due(50.0) == ended
    await kept.cleaned("upload_1", None)
    await kept.cleaned("upload_2", 150.0)
    assert await due(100.0) == [("upload_3", UploadState.EXPIRED)]
    assert await kept.get_upload("upload_1") is None
    assert await kept.part_sizes("upload_1") == {}


async def test_who_is_told_is_noted_as_a_batch_ends(tools: StoreTools) -> None:
    kept, outbox = tools.store.batches, tools.store.batches.deliveries
    await kept.add_batch(replace(batch_of(1), webhooks=("a", "b")))
    await kept.own_batch("one", 10)
    await kept.save_batch("batch_1", "one", BatchState.FINALIZING, Progress())
    assert not await kept.save_batch("batch_1", "two", BatchState.COMPLETED, Progress())
    assert await outbox.list_deliveries(None, 9) == []
    await kept.save_batch("batch_1", "one", BatchState.COMPLETED, Progress())
    await kept.save_batch("batch_1", "one", BatchState.COMPLETED, Progress())
    assert await outbox.next_due("c") is None
    assert await outbox.next_due("a") == tools.clock.now
    [first] = await outbox.claim("a", 9, 60)
    assert (first.kind, first.batch_id, first.attempts) == ("batch.completed", "batch_1", 1)
    assert await outbox.claim("a", 9, 60) == [], "another sends it"
    tools.clock.turn(61)
    [again] = await outbox.claim("a", 9, 60)
    assert (again.event_id, again.attempts) == (first.event_id, 2), "its sender was killed"
    await outbox.try_later(again, 5, "It answered 500.")
    assert await outbox.next_due("a") == tools.clock.now + 5
    [other] = await outbox.claim("b", 9, 60)
    assert other.event_id == first.event_id
    await outbox.delivered(other)
    await outbox.try_later(other, 5, "late")
    await outbox.give_up(again, "Enough.")
    told = {one.endpoint: one for one in await outbox.list_deliveries(None, 9)}
    assert (told["a"].state, told["a"].error) == (DeliveryState.GIVEN_UP, "Enough.")
    assert (told["b"].state, told["b"].next_at) == (DeliveryState.DELIVERED, None)
    assert await outbox.list_deliveries(DeliveryState.WAITING, 9) == []
    assert await outbox.forget(tools.clock.now, 9) == 0
    assert await outbox.forget(tools.clock.now + 1, 1) >= 1


async def test_lines_that_ended_are_counted_on_and_told_by_how(tools: StoreTools) -> None:
    kept = tools.store.batches
    await tools.register()
    for _ in range(4):
        await tools.submit(group="batch_1", max_retries=0)
    await tools.submit(group="batch_2")
    leased = await tools.claim(max_jobs=4)
    assert await kept.count_ended("batch_1", EndedLines()) == EndedLines()
    known = EndedLines()
    for done, one in enumerate(leased, start=1):
        status = JobState.FAILED if done == 3 else JobState.COMPLETED
        report = Report(
            job_id=one.job.job_id,
            attempt=one.job.attempt,
            status=status,
            result='"yes"',
            error="no",
        )
        await tools.store.report("wrk_a", [report])
        known = await kept.count_ended("batch_1", known)
        assert known.completed + known.failed == done
    assert (known.completed, known.failed) == (3, 1)
    assert await kept.count_ended("batch_1", EndedLines()) == known
    good = await kept.ended_jobs("batch_1", 0, 2, completed=True)
    rest = await kept.ended_jobs("batch_1", good[-1].finish_seq or 0, 9, completed=True)
    assert [job.result for job in (*good, *rest)] == ['"yes"'] * 3
    [bad] = await kept.ended_jobs("batch_1", 0, 9, completed=False)
    assert bad.error == "no"
    await tools.store.retry_job(bad.job_id)
    counted = await kept.count_ended("batch_1", known)
    assert (counted.completed, counted.failed) == (3, 0), "it goes on"


async def test_one_at_a_time_has_a_duty(tools: StoreTools) -> None:
    duties = tools.store.batches.duties
    assert await duties.own("sweep", "one", 60)
    assert not await duties.own("sweep", "two", 60)
    assert await duties.own("other", "two", 60)
    tools.clock.turn(50)
    assert await duties.own("sweep", "one", 60), "it is kept as long as it is had"
    tools.clock.turn(59)
    assert not await duties.own("sweep", "two", 60)
    tools.clock.turn(2)
    assert await duties.own("sweep", "two", 60), "its owner is gone"
    await duties.leave("two")
    assert await duties.own("sweep", "one", 60)


async def test_of_many_sweepers_one_sweeps(tools: StoreTools, tmp_path: Path) -> None:
    kept = tools.store.batches
    engram = ObjectStore.from_url((tmp_path / "engram").as_uri())
    files = FileObjects(engram)

    async def content() -> AsyncIterator[bytes]:
        yield b"x"

    async def stored(count: int) -> None:
        for number in range(count):
            await files.write(f"file_{number}", content())
            await kept.add_file(replace(file_of(number), expires_at=10.0))

    await stored(STEP + 10)
    one, two = (FileSweeper(kept, files, now=lambda: 200.0) for _ in range(2))
    assert await one.run_once() == STEP + 10
    assert await engram.list(DEFAULT_BUCKET) == []
    assert await kept.expired_files(200.0, 9) == []
    await stored(1)
    assert await two.run_once() == 0, "the other has the duty"
    tools.clock.turn(600)
    assert await two.run_once() == 1, "the other is gone"
