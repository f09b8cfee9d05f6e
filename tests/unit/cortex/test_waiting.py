"""What a waiting job is said to wait for: of a job and some workers, nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mnemos.cortex.api.waiting import waiting_for
from mnemos.cortex.records import DesiredState, JobRecord, WorkerRecord
from mnemos.cortex.state_machine import JobState

NOW = 1000.0
GIB = 1024


def job(**changes: Any) -> JobRecord:
    fields: dict[str, Any] = dict.fromkeys(JobRecord.__dataclass_fields__)
    fields |= {"status": JobState.PENDING, "job_type": "inference", "tags": "{}", "attempt": 0}
    fields |= {"family": "tiny", "version": "1", "runtime": "vllm", "delayed": False}
    fields |= {"min_memory_mb": 0, "min_gpu_memory_mb": 0, "available_at": NOW}
    return JobRecord(**fields | changes)


def worker(**changes: Any) -> WorkerRecord:
    can = {"supported_runtimes": ["vllm"], "job_types": [], "unavailable_runtimes": {}}
    resources = {"memory_total_mb": 64 * GIB, "gpus": [{"total_memory_mb": 24 * GIB}]}
    fields: dict[str, Any] = dict.fromkeys(WorkerRecord.__dataclass_fields__, 0)
    fields |= {"worker_id": "wrk_a", "status": "busy", "lost": False, "models": "[]"}
    fields |= {"desired_state": DesiredState.ACTIVE, "tags": json.dumps(changes.pop("tags", {}))}
    fields["capabilities"] = json.dumps(can | changes.pop("can", {}))
    fields["resources"] = json.dumps(resources | changes.pop("resources", {}))
    return WorkerRecord(**fields | changes)


LOADED = json.dumps([{"family": "tiny", "version": "1", "runtime": "vllm"}])
BIG = {"min_gpu_memory_mb": 40 * GIB}


@pytest.mark.parametrize(
    ("waiting", "workers", "code", "message"),
    [
        (job(delayed=True, available_at=NOW + 11.2), [], "retry_later", "retry in 12 s"),
        (
            job(delayed=True, available_at=NOW - 1, status_message="attempt 1 ended: x"),
            [worker(status="idle")],
            "retry_later",
            "retry in 1 s; attempt 1 ended: x",
        ),
        (job(), [], "no_worker", "no worker is registered"),
        (job(), [worker(lost=True)], "no_worker", "no worker is registered (1 were lost)"),
        (
            job(runtime="pytorch"),
            [worker(), worker(can={"unavailable_runtimes": {"pytorch": "no torch"}})],
            "runtime_missing",
            "no registered worker offers the runtime pytorch (workers offer: vllm); "
            "wrk_a says: no torch",
        ),
        (
            job(job_type="evaluation"),
            [worker()],
            "job_type_missing",
            "no registered worker takes jobs of type evaluation",
        ),
        (
            job(tags='{"zone": "eu", "disk": "fast"}'),
            [worker(tags={"zone": "us", "disk": "fast"})],
            "tag_missing",
            "no worker has the tag zone=eu",
        ),
        (
            job(tags='{"zone": "eu", "disk": "fast"}'),
            [worker(tags={"zone": "eu"}), worker(tags={"disk": "fast"})],
            "tag_missing",
            "no worker has the tags disk=fast, zone=eu together",
        ),
        (
            job(**BIG),
            [worker(), worker(resources={"gpus": []})],
            "gpu_memory_missing",
            "no registered worker has 40 GiB of GPU memory (the largest has 24)",
        ),
        (
            job(**BIG),
            [worker(resources={"gpus": []})],
            "gpu_memory_missing",
            "no registered worker has 40 GiB of GPU memory (none has any)",
        ),
        (
            job(min_memory_mb=64 * GIB + 1),
            [worker()],
            "memory_missing",
            "no registered worker has 65537 MiB of memory (the largest has 65536)",
        ),
        (
            job(min_memory_mb=32 * GIB, min_gpu_memory_mb=16 * GIB),
            [worker(resources={"gpus": []}), worker(resources={"memory_total_mb": GIB})],
            "memory_missing",
            "no registered worker has 32768 MiB of memory and 16384 MiB of GPU memory together",
        ),
        (
            job(min_memory_mb=2 * GIB),
            [worker(offered_memory_mb=GIB)],
            "memory_missing",
            "no registered worker has 2 GiB of memory (the largest has 1)",
        ),
        (
            job(**BIG),
            [worker(models=LOADED)],
            "workers_busy",
            "the one worker that could run it is busy",
        ),
        (
            job(**BIG, attempt=1),
            [worker(models=LOADED)],
            "gpu_memory_missing",
            "no registered worker has 40 GiB of GPU memory (the largest has 24)",
        ),
        (
            job(),
            [worker(desired_state=DesiredState.PAUSED)],
            "workers_stopped",
            "the one worker that could run it takes no new jobs now (paused)",
        ),
        (
            job(),
            [worker(), worker(), worker(status="initializing")],
            "workers_busy",
            "all 3 workers that could run it are busy",
        ),
        (
            job(),
            [worker(status="initializing")],
            "workers_not_ready",
            "the one worker that could run it is not ready (initializing)",
        ),
        (
            job(),
            [worker(), worker(worker_id="wrk_b", status="idle")],
            "next_poll",
            "a worker that can run it (wrk_b) is given it when it asks next",
        ),
    ],
)
def test_a_waiting_job_says_what_for(
    waiting: JobRecord, workers: list[WorkerRecord], code: str, message: str
) -> None:
    told = waiting_for(waiting, workers, NOW)
    assert (told.code, told.message) == (code, message)
