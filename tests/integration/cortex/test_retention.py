"""A server that takes away what was kept long enough, and what readers are told then."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cortex_tools import Cortex, eventually, running_cortex
from pydantic import ValidationError

from mnemos.cortex.errors import StorageUnavailableError
from mnemos.cortex.records import OldJobs, PrunedStep
from mnemos.cortex.retention import FOR_EVER, RetentionPruner
from mnemos.cortex.settings import CortexSettings
from mnemos.engram.store import ObjectStore
from mnemos.protocol.v1 import cortex_pb2 as pb

DAY = 86_400.0
Start = Callable[..., AbstractAsyncContextManager[Cortex]]


@pytest.fixture
def start(settings: CortexSettings) -> Start:
    def start(**changes: Any) -> AbstractAsyncContextManager[Cortex]:
        return running_cortex(settings.model_copy(update=changes))

    return start


async def complete(cortex: Cortex) -> str:
    job_id = await cortex.hold()
    await cortex.chunks(job_id, "a", "b")
    await cortex.complete(job_id)
    return job_id


async def counted(cortex: Cortex, line: str) -> None:
    async def is_told() -> bool:
        return line in (await cortex.http.get("/metrics")).text

    await eventually(is_told, line)


async def test_a_log_that_is_gone_is_a_410_and_its_job_is_shown(start: Start) -> None:
    async with start(stream_retention_seconds=0.2) as cortex:
        job_id = await complete(cortex)
        path = f"/api/v1/jobs/{job_id}/stream"

        async def is_gone() -> bool:
            return (await cortex.http.get(path)).status_code == 410

        await eventually(is_gone, "the log is pruned")
        error = (await cortex.http.get(path)).json()["error"]
        assert error["code"] == "log_pruned"
        assert job_id in error["message"]
        job = await cortex.job(job_id)
        assert (job["status"], job["result"]) == ("completed", "Hi")
        assert [attempt["outcome"] for attempt in job["attempts"]] == ["completed"]

        await counted(cortex, 'neuron_pruned_total{kind="logs"} 1.0')

        late = await cortex.http.get(path, headers={"Last-Event-ID": "100"})
        assert late.status_code == 200
        assert late.text.startswith("event: end\n")


async def test_a_job_that_is_gone_is_a_404_and_no_longer_counted(start: Start) -> None:
    async with start(retention_seconds=0.2) as cortex:
        waiting = await cortex.submit(model={"family": "b", "version": "1", "runtime": "vllm"})
        job_id = await complete(cortex)

        async def is_gone() -> bool:
            return (await cortex.http.get(f"/api/v1/jobs/{job_id}")).status_code == 404

        await eventually(is_gone, "the job is pruned")
        stream = await cortex.http.get(f"/api/v1/jobs/{job_id}/stream")
        assert (stream.status_code, stream.json()["error"]["code"]) == (404, "job_not_found")
        stats = (await cortex.http.get("/api/v1/stats")).json()
        assert {name: count for name, count in stats["jobs"].items() if count} == {"pending": 1}
        await counted(cortex, 'neuron_jobs_total{state="completed"} 1.0')
        await counted(cortex, 'neuron_pruned_total{kind="jobs"} 1.0')
        assert (await cortex.job(waiting))["status"] == "pending"


async def test_an_answer_in_engram_goes_with_its_job(start: Start, tmp_path: Path) -> None:
    url = (tmp_path / "engram").as_uri()
    engram, bucket = ObjectStore.from_url(url), "results"
    await engram.ensure_bucket(bucket)
    async with start(engram_url=url, result_bucket=bucket, retention_seconds=0.5) as cortex:
        job_id = await cortex.hold()
        place = f"jobs/{job_id}/1/result.json"
        await engram.put_bytes(bucket, place, b"[1]")
        uri = f"engram://{bucket}/{place}"
        reference = pb.ResultReference(uri=uri, size_bytes=3, sha256=sha256(b"[1]").hexdigest())
        output = pb.JobOutput(metadata_json="{}", result_reference=reference)
        said = pb.JobResult(job_id=job_id, attempt=1, status=pb.JOB_STATUS_COMPLETED, output=output)
        await cortex.report(said)
        answer = await cortex.http.get(f"/api/v1/jobs/{job_id}/result")
        assert answer.json() == [1]

        async def is_gone() -> bool:
            return (await cortex.http.get(f"/api/v1/jobs/{job_id}")).status_code == 404

        await eventually(is_gone, "the job is pruned")
        assert await engram.list(bucket, "jobs") == []


def test_the_settings_say_a_month_and_a_week_and_none_is_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = CortexSettings(data_dir=tmp_path)
    assert (plain.retention_seconds, plain.stream_retention_seconds) == (30 * DAY, 7 * DAY)
    monkeypatch.setenv("CORTEX_RETENTION_SECONDS", "none")
    monkeypatch.setenv("CORTEX_STREAM_RETENTION_SECONDS", "3600")
    told = CortexSettings(data_dir=tmp_path)
    assert (told.retention_seconds, told.stream_retention_seconds) == (FOR_EVER, 3600)
    for wrong in ("-1", "soon", "nan"):
        monkeypatch.setenv("CORTEX_RETENTION_SECONDS", wrong)
        with pytest.raises(ValidationError):
            CortexSettings(data_dir=tmp_path)


@pytest.mark.parametrize(
    ("jobs", "logs", "interval"),
    [(30 * DAY, 7 * DAY, 300), (1000, FOR_EVER, 100), (FOR_EVER, 20, 2), (1, 1, 0.5)],
)
def test_rounds_come_as_often_as_is_of_use(jobs: float, logs: float, interval: float) -> None:
    pruner = RetentionPruner(Troubled(), jobs_seconds=jobs, logs_seconds=logs)
    assert pruner.interval_seconds == interval


class EnoughError(Exception):
    """Ends what would go on for ever."""


class Troubled:
    """A store that cannot be used at first."""

    def __init__(self) -> None:
        self.asked = 0

    async def prune_logs(self, kept_seconds: float, after_seq: int) -> PrunedStep:
        self.asked += 1
        if self.asked == 1:
            raise StorageUnavailableError("The disk is full.")
        raise EnoughError

    async def find_old_jobs(self, kept_seconds: float, after_seq: int) -> OldJobs:
        raise AssertionError("not asked for")

    async def prune_jobs(self, old: OldJobs) -> PrunedStep:
        raise AssertionError("not asked for")

    async def forget_groups(self, groups: object) -> None:
        raise AssertionError("not asked for")


async def test_a_store_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnemos.cortex.retention.SHORTEST_INTERVAL_SECONDS", 0.0)
    store = Troubled()
    pruner = RetentionPruner(store, jobs_seconds=FOR_EVER, logs_seconds=1e-6)
    with pytest.raises(EnoughError):
        await pruner.run()
    assert store.asked == 2


async def test_who_keeps_everything_asks_for_nothing() -> None:
    store = Troubled()
    await RetentionPruner(store, jobs_seconds=FOR_EVER, logs_seconds=FOR_EVER).run()
    assert store.asked == 0
