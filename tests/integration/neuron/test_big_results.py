"""Answers too large for a message: into ENGRAM, whatever fails meanwhile, and reported once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest
from fake_cortex import FakeCortex, FakeJob
from fake_engine_worker import worker_process

from mnemos.engram.store import ObjectStore
from mnemos.protocol.v1 import cortex_pb2 as pb
from neuron.clients.cortex_client import SENDABLE_BYTES
from neuron.config import Settings
from neuron.services.outbox import leftovers
from neuron.worker import NEURONWorker

StartWorker = Callable[..., AbstractAsyncContextManager[NEURONWorker]]
MakeSettings = Callable[..., Settings]
SIZE = SENDABLE_BYTES + 1
MANY = 1_000_000


class S3(Protocol):
    """What the tests need of the S3 server."""

    access_key: str
    secret_key: str

    @property
    def url(self) -> str: ...

    def store(self) -> ObjectStore: ...


async def poll_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - looks at a disk, which has no event for it
            await asyncio.sleep(0.01)


@pytest.fixture
def engram(cache_dir: Path) -> Path:
    """ENGRAM's folder, as worker_settings name it."""
    return cache_dir.parent / "engram"


def object_of(engram: Path, job_id: str, attempt: int = 1) -> Path:
    return engram / "mnemos-results" / "jobs" / job_id / str(attempt) / "result.json"


def block(engram: Path) -> None:
    engram.write_text("a file is in the way")


def unblock(engram: Path) -> None:
    engram.unlink()


def is_there(engram: Path) -> bool:
    return engram.exists()


def check_reference(job: FakeJob, engram: Path) -> None:
    """The job was reported once, by a reference to its whole answer."""
    assert (job.attempt, job.accepted) == (1, 1)
    assert job.result is not None
    assert job.result.status == pb.JOB_STATUS_COMPLETED
    output = job.result.output
    assert output.result_json == ""
    path = object_of(engram, job.spec.job_id)
    answer = path.read_bytes()
    assert json.loads(answer) == "x" * SIZE
    reference = output.result_reference
    assert reference.uri == f"engram://mnemos-results/jobs/{job.spec.job_id}/1/result.json"
    assert reference.size_bytes == len(answer)
    assert reference.sha256 == hashlib.sha256(answer).hexdigest()


async def test_a_big_answer_is_reported_by_reference_and_a_small_one_is_not(
    cortex: FakeCortex, start_worker: StartWorker, engram: Path
) -> None:
    async with start_worker():
        big, small = cortex.submit("job_big", f"big {SIZE}"), cortex.submit("job_small", "big 10")
        await cortex.until(lambda: big.state == small.state == "done")

    check_reference(big, engram)
    assert small.result is not None
    assert json.loads(small.result.output.result_json) == "x" * 10
    assert not small.result.output.HasField("result_reference")
    assert not object_of(engram, "job_small").exists()


async def test_what_no_setting_allows_fails_once_and_says_its_size(
    cortex: FakeCortex, start_worker: StartWorker, engram: Path
) -> None:
    async with start_worker(max_result_mb=4):
        job = cortex.submit("job_1", f"big {5 * 2**20}")
        await cortex.until(lambda: job.state == "done")

    assert job.result is not None
    assert job.result.status == pb.JOB_STATUS_FAILED
    assert job.result.error_details.code == pb.ERROR_CODE_INSUFFICIENT_RESOURCES
    assert not job.result.error_details.retryable
    size = int(next(word for word in job.result.error.split() if word.isdecimal()))
    assert 5 * 2**20 < size < 6 * 2**20
    assert str(4 * 2**20) in job.result.error
    assert not is_there(engram)


def is_waiting(cortex: FakeCortex) -> bool:
    """Whether a worker has failed to store its answer, and asked whether it still counts."""
    return len(cortex.renewals) > 1


async def test_engram_out_of_reach_is_waited_for(
    cortex: FakeCortex, start_worker: StartWorker, engram: Path
) -> None:
    block(engram)
    async with start_worker():
        job = cortex.submit("job_1", f"big {SIZE}")
        await cortex.until(lambda: is_waiting(cortex))
        following = cortex.submit("job_2", "tokens 3")
        await cortex.until(lambda: following.state == "done")
        assert job.state == "running", "it is not lost, and holds nobody up"
        unblock(engram)
        await cortex.until(lambda: job.state == "done", seconds=20)

    check_reference(job, engram)


async def test_a_worker_that_may_not_write_there_fails_the_attempt_so_that_another_may_try(
    cortex: FakeCortex, start_worker: StartWorker, s3_server: S3
) -> None:
    keys = {"minio_access_key": s3_server.access_key, "minio_secret_key": "another"}
    async with start_worker(minio_endpoint=s3_server.url, **keys):
        job = cortex.submit("job_1", f"big {SIZE}")
        await cortex.until(lambda: job.state == "done")

    assert job.result is not None
    assert job.result.error_details.code == pb.ERROR_CODE_INSUFFICIENT_RESOURCES
    assert job.result.error_details.retryable
    assert "mnemos-results" in job.result.error


async def test_s3_is_as_good_as_a_folder(
    cortex: FakeCortex, start_worker: StartWorker, s3_server: S3
) -> None:
    keys = {
        "minio_access_key": s3_server.access_key,
        "minio_secret_key": s3_server.secret_key,
        "result_bucket": f"results-{uuid.uuid4().hex[:12]}",
    }
    async with start_worker(minio_endpoint=s3_server.url, **keys):
        job = cortex.submit("job_1", f"big {SIZE}")
        await cortex.until(lambda: job.state == "done")

    assert job.result is not None
    reference = job.result.output.result_reference
    bucket, _, key = reference.uri.removeprefix("engram://").partition("/")
    assert bucket == keys["result_bucket"]
    answer = await s3_server.store().get_bytes(bucket, key)
    assert json.loads(answer) == "x" * SIZE
    assert hashlib.sha256(answer).hexdigest() == reference.sha256


async def test_an_answer_that_counts_no_more_is_given_up(
    cortex: FakeCortex, start_worker: StartWorker, engram: Path
) -> None:
    block(engram)
    async with start_worker() as worker:
        job = cortex.submit("job_1", f"big {SIZE}")
        await cortex.until(lambda: is_waiting(cortex))
        job.holder = "wrk_other"
        assert worker._parts is not None
        results = worker._parts.results
        await poll_until(lambda: not worker.view.info()["current_jobs"])
        await poll_until(lambda: results.unjudged_results == 0)

    assert job.result is None
    assert job.accepted == 0


async def test_a_cancelled_job_s_answer_is_given_up_too(
    cortex: FakeCortex, start_worker: StartWorker, engram: Path
) -> None:
    block(engram)
    async with start_worker():
        job = cortex.submit("job_1", f"big {SIZE}")
        await cortex.until(lambda: is_waiting(cortex))
        job.cancel_asked = True
        await cortex.until(lambda: job.result is not None, seconds=20)

    assert job.result is not None
    assert job.result.status == pb.JOB_STATUS_FAILED
    assert job.result.error_details.code == pb.ERROR_CODE_STORAGE_UNAVAILABLE


def bodies(settings: Settings) -> list[int]:
    """How large the reports are that a process has on disk."""
    paths = list(settings.outbox_folder.glob("*/outbox.db"))
    if not paths:
        return []
    connection = sqlite3.connect(f"file:{paths[0]}?mode=ro", uri=True)
    try:
        return [size for (size,) in connection.execute("SELECT LENGTH(body) FROM reports")]
    except sqlite3.OperationalError:  # the process has only begun to make it
        return []
    finally:
        connection.close()


async def test_an_answer_that_engram_has_not_taken_outlives_its_worker(
    cortex: FakeCortex, worker_settings: MakeSettings, engram: Path, tmp_path: Path
) -> None:
    settings, log = worker_settings(poll_wait=1), tmp_path / "worker.log"
    block(engram)
    job = cortex.submit("job_1", f"big {SIZE}")
    with worker_process(settings, log):
        await poll_until(lambda: any(size > SIZE for size in bodies(settings)), seconds=30)
    assert job.state == "running"

    unblock(engram)
    with worker_process(settings, log):
        await cortex.until(lambda: job.state == "done", seconds=30)

    check_reference(job, engram)


async def test_a_worker_that_starts_again_gives_engram_more_time_than_cortex(
    cortex: FakeCortex,
    start_worker: StartWorker,
    engram: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leftovers, "PATIENCE_SECONDS", 0.1)
    block(engram)
    job = cortex.submit("job_1", f"big {SIZE}")
    async with start_worker():
        await cortex.until(lambda: is_waiting(cortex))
    assert job.state == "running"

    before = len(cortex.renewals)
    async with start_worker(ready=False):
        await cortex.until(lambda: len(cortex.renewals) >= before + 8)
        assert len(cortex.registrations) == 1, "that would have ended the attempt"
        unblock(engram)
        await cortex.until(lambda: job.state == "done", seconds=20)
        await cortex.until(lambda: len(cortex.registrations) == 2)

    check_reference(job, engram)


async def test_of_an_answer_that_engram_has_only_the_reference_is_kept(
    cortex: FakeCortex, worker_settings: MakeSettings, engram: Path, tmp_path: Path
) -> None:
    settings, log = worker_settings(poll_wait=1), tmp_path / "worker.log"
    cortex.refuse_reports = MANY
    job = cortex.submit("job_1", f"big {SIZE}")
    with worker_process(settings, log):
        await cortex.until(lambda: cortex.refuse_reports < MANY, seconds=30)
        await poll_until(lambda: bool(bodies(settings)) and max(bodies(settings)) < 10_000)

    cortex.refuse_reports = 0
    with worker_process(settings, log):
        await cortex.until(lambda: job.state == "done", seconds=30)

    check_reference(job, engram)
