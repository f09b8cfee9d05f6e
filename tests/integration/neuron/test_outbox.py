"""A finished answer outlives its worker: kept on disk, delivered by the next process, once."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from fake_cortex import FakeCortex, FakeJob
from fake_engine_worker import worker_process

from neuron.config import Settings
from neuron.worker import NEURONWorker

StartWorker = Callable[..., AbstractAsyncContextManager[NEURONWorker]]
MakeSettings = Callable[..., Settings]
MANY = 1_000_000
TEXT = "".join(f"t{index} " for index in range(200))


async def poll_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - looks at a disk, which has no event for it
            await asyncio.sleep(0.01)


def kept(settings: Settings, table: str = "reports") -> int:
    """How many rows a process has on disk."""
    (path,) = settings.outbox_folder.glob("*/outbox.db")
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        (count,) = connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()  # noqa: S608
    except sqlite3.OperationalError:  # the process has only begun to make it
        return 0
    finally:
        connection.close()
    return int(count)


def text_of(job: FakeJob) -> str:
    assert job.result is not None
    text: str = json.loads(job.result.output.result_json)
    return text


@pytest.fixture
def settings(worker_settings: MakeSettings) -> Settings:
    return worker_settings(poll_wait=1)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


async def test_a_result_outlives_a_worker_killed_before_cortex_took_it(
    cortex: FakeCortex, settings: Settings, log: Path
) -> None:
    job = cortex.submit("job_1", "tokens 200")
    cortex.refuse_reports = MANY
    with worker_process(settings, log):
        await cortex.until(lambda: cortex.refuse_reports < MANY, seconds=30)
        await poll_until(lambda: kept(settings) == 1)
    assert job.state == "running"

    cortex.refuse_reports = 0
    with worker_process(settings, log):
        await cortex.until(lambda: job.state == "done", seconds=30)
        following = cortex.submit("job_2")
        await cortex.until(lambda: following.state == "done", seconds=30)
        await poll_until(lambda: kept(settings) == 0)

    assert (job.attempt, job.accepted) == (1, 1), "the job ran again"
    assert text_of(job) == TEXT
    assert [request.worker_id for request in cortex.registrations] == ["", "wrk_1"]


async def test_tokens_arrive_before_the_result_and_once_although_the_worker_was_killed(
    cortex: FakeCortex, settings: Settings, log: Path
) -> None:
    job = cortex.submit("job_1", "tokens 200", stream=True)
    cortex.refuse_tokens = True
    with worker_process(settings, log):
        await poll_until(lambda: bool(list(settings.outbox_folder.glob("*/outbox.db"))))
        await poll_until(lambda: kept(settings) == 1 and kept(settings, "chunks") > 0)
    assert job.chunks == []

    cortex.refuse_tokens = False
    with worker_process(settings, log):
        await cortex.until(lambda: job.state == "done", seconds=30)

    assert (job.attempt, job.accepted) == (1, 1), "the job ran again"
    assert job.text == text_of(job) == TEXT
    assert [chunk.sequence for chunk in job.chunks] == list(range(len(job.chunks)))


async def test_a_worker_that_starts_while_cortex_is_down_delivers_when_it_is_back(
    cortex: FakeCortex, settings: Settings, log: Path
) -> None:
    job = cortex.submit("job_1", "tokens 200")
    cortex.refuse_reports = MANY
    with worker_process(settings, log):
        await cortex.until(lambda: cortex.refuse_reports < MANY, seconds=30)
        await poll_until(lambda: kept(settings) == 1)
    await cortex.down()
    cortex.refuse_reports = 0

    with worker_process(settings, log):
        await poll_until(lambda: log.read_text().count("report_result_error") > 2)
        await cortex.up()
        await cortex.until(lambda: job.state == "done", seconds=30)

    assert (job.attempt, job.accepted) == (1, 1), "the job ran again"


async def test_an_answer_that_another_attempt_overtook_is_dropped(
    cortex: FakeCortex, settings: Settings, log: Path
) -> None:
    job = cortex.submit("job_1", "tokens 200")
    cortex.refuse_reports = MANY
    with worker_process(settings, log):
        await cortex.until(lambda: cortex.refuse_reports < MANY, seconds=30)
        await poll_until(lambda: kept(settings) == 1)
    cortex.expire("job_1")

    cortex.refuse_reports = 0
    with worker_process(settings, log):
        await cortex.until(lambda: job.state == "done", seconds=30)
        await poll_until(lambda: '"verdict":"stale"' in log.read_text())
        await poll_until(lambda: kept(settings) == 0)

    assert job.attempt > 1
    assert job.accepted == 1


async def test_a_worker_that_left_in_peace_comes_back_as_a_new_one(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    for _ in range(2):
        async with start_worker() as worker:
            job = cortex.submit(f"job_{len(cortex.jobs)}")
            await cortex.until(lambda job=job: job.state == "done")  # type: ignore[misc]
            await worker.shutdown()

    assert [request.worker_id for request in cortex.registrations] == ["", ""]


async def test_a_worker_with_a_result_to_deliver_does_not_give_its_attempt_away(
    cortex: FakeCortex, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuron.worker.HASTY_FLUSH_SECONDS", 0.2)
    job = cortex.submit("job_1", "tokens 200", stream=True)
    async with start_worker() as worker:
        cortex.refuse_reports = MANY
        await cortex.until(lambda: cortex.refuse_reports < MANY)
        worker.request_stop_now("the test")
        await worker.shutdown()
    assert cortex.deregistered == []
    cortex.refuse_reports = 0

    async with start_worker():
        await cortex.until(lambda: job.state == "done")

    assert (job.attempt, job.accepted) == (1, 1), "the job ran again"
    assert job.text == TEXT


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_is_said_and_costs_no_job(
    cortex: FakeCortex, start_worker: StartWorker, small_disk: Path
) -> None:
    filler = small_disk / "filler"
    async with start_worker(outbox_dir=small_disk) as worker:
        await poll_until(lambda: bool(list(small_disk.glob("*/outbox.db"))))
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(b"x" * 1_000_000)
        cortex.refuse_reports = MANY
        job = cortex.submit("job_1", "tokens 20000")
        await poll_until(lambda: "No space" in said(worker) or "full" in said(worker))
        assert worker.view.not_ready_because() == [] or "CORTEX" in str(
            worker.view.not_ready_because()
        )
        cortex.refuse_reports = 0
        await cortex.until(lambda: job.state == "done")
        filler.unlink()
        cortex.refuse_reports = MANY
        following = cortex.submit("job_2", "tokens 20")
        await poll_until(lambda: not said(worker))
        cortex.refuse_reports = 0
        await cortex.until(lambda: following.state == "done")

    assert job.accepted == following.accepted == 1


def said(worker: NEURONWorker) -> str:
    return "; ".join(text for text in worker.view.warnings() if "outbox" in text)


async def test_a_corrupt_outbox_is_set_aside_and_the_worker_lives(
    cortex: FakeCortex, start_worker: StartWorker, settings: Settings
) -> None:
    folder = settings.outbox_folder / "worker-1"
    folder.mkdir(parents=True)
    (folder / "outbox.db").write_bytes(b"\0nonsense" * 1000)

    async with start_worker():
        job = cortex.submit("job_1")
        await cortex.until(lambda: job.state == "done")

    assert job.accepted == 1
    assert list(folder.glob("outbox.db.corrupt-*"))


async def test_a_worker_whose_outbox_is_full_says_why_it_takes_no_jobs(
    cortex: FakeCortex, start_worker: StartWorker
) -> None:
    async with start_worker(outbox_mb=1) as worker:
        cortex.refuse_reports = MANY
        jobs = [cortex.submit(f"job_{index}", "tokens 40000") for index in range(4)]
        await poll_until(lambda: "the outbox is full: 1 MB" in str(not_ready(worker)))
        cortex.refuse_reports = 0
        await cortex.until(lambda: all(job.state == "done" for job in jobs))
        await poll_until(lambda: not_ready(worker) == [])


def not_ready(worker: NEURONWorker) -> list[str]:
    return worker.view.not_ready_because()
