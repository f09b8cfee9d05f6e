"""An engine's misfortune reaches neither the worker nor another model."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from stack import Process, Stack, wait_until
from tiny_stack import finished, running, tiny_job
from trouble_model import ALLOCATE, HANG, SEGFAULT, install_trouble, write_trouble_model

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

JOBS = 32
LONG_TOKENS = 1000


def engines_of(worker_pid: int) -> list[psutil.Process]:
    """The engines of a worker: the children of its children, which only guard them."""
    engines = []
    for guard in psutil.Process(worker_pid).children():
        try:
            engines += guard.children()
        except psutil.NoSuchProcess:
            continue  # it has just ended
    return engines


def loads(worker: Process, model: str) -> int:
    """How often a model became ready, as the worker's log tells."""
    entries = [json.loads(line) for line in worker.text().splitlines() if '"model_ready"' in line]
    return sum(f"{entry['family']}:{entry['version']}" == model for entry in entries)


def test_killing_an_engine_under_32_running_jobs_costs_no_job(stack: Stack) -> None:
    worker = stack.start_ready_worker(max_concurrent_jobs=JOBS)
    job_ids = stack.submit(
        [tiny_job("kill-engine", index, max_tokens=LONG_TOKENS) for index in range(JOBS)]
    )
    wait_until(lambda: running(stack, "kill-engine") == JOBS, what=f"{JOBS} running jobs")
    (engine,) = engines_of(worker.pid)

    engine.kill()

    wait_until(lambda: finished(stack, "kill-engine") == JOBS, seconds=200, what="all jobs")
    assert worker.alive, worker.tail()
    jobs = [stack.job(job_id) for job_id in job_ids]
    assert {job["status"] for job in jobs} == {"completed"}
    crashed = [job for job in jobs if job["attempts"][0]["error_code"] == "engine_crashed"]
    assert crashed, "the jobs were too short to be caught"
    assert all(job["retries_used"] == 0 for job in crashed), "an engine's death was charged"
    assert [w["worker_id"] for w in stack.get("/api/v1/workers")["workers"]] == [
        jobs[0]["worker_id"]
    ]


def trouble_job(order: float) -> dict[str, Any]:
    return {
        "model": {"family": "trouble", "version": "1"},
        "input": {"inputs": [{"x": [order]}]},
        "group": "trouble",
    }


def test_allocating_segfaulting_and_hanging_jobs_end_as_dead_letters_alone(
    stack: Stack, tmp_path: Path
) -> None:
    stack.mnemos(
        "models",
        "push",
        str(write_trouble_model(tmp_path / "trouble")),
        "--name=trouble:1",
        "--runtime=pytorch",
    )
    stack.worker_environment["PYTHONPATH"] = install_trouble(tmp_path / "site")
    worker = stack.start_ready_worker(
        supported_runtimes="transformers,pytorch", engine_stall_seconds=10, engine_memory_mb=2000
    )
    well = stack.submit([tiny_job("well", index, max_tokens=LONG_TOKENS) for index in range(4)])
    bad = stack.submit([trouble_job(order) for order in (ALLOCATE, SEGFAULT, HANG)])
    good = stack.submit([trouble_job(float(number)) for number in range(3)])

    wait_until(lambda: finished(stack, "trouble") == 6, seconds=200, what="the end of the trouble")

    errors = [stack.job(job_id)["error"] for job_id in bad]
    assert [stack.job(job_id)["status"] for job_id in bad] == ["failed"] * 3, errors
    assert {error["code"] for error in errors} == {"engine_crashed"}
    assert not any(error["retryable"] for error in errors)
    for error, words in zip(errors, ("it grew to", "SIGSEGV", "no progress"), strict=True):
        assert words in error["message"], error
    assert [stack.job(job_id)["result"] for job_id in good] == [
        [{"y": [2.0 * number]}] for number in range(3)
    ]
    wait_until(lambda: finished(stack, "well") == len(well), what="the other model's jobs")
    untouched = [stack.job(job_id) for job_id in well]
    assert [job["status"] for job in untouched] == ["completed"] * len(well)
    assert [job["attempt"] for job in untouched] == [1] * len(well)
    assert worker.alive, worker.tail()
    assert loads(worker, "tiny:1") == 1


def test_a_stopped_engine_is_ended_and_replaced(stack: Stack) -> None:
    worker = stack.start_ready_worker(engine_stall_seconds=2)
    job_ids = stack.submit([tiny_job("stopped", 0, max_tokens=LONG_TOKENS)])
    wait_until(lambda: running(stack, "stopped") == 1, what="a running job")
    (engine,) = engines_of(worker.pid)

    os.kill(engine.pid, signal.SIGSTOP)

    wait_until(lambda: finished(stack, "stopped") == 1, seconds=60, what="the job's end")
    job = stack.job(job_ids[0])
    assert job["status"] == "completed"
    assert "has not answered" in job["attempts"][0]["error"]
    assert not engine.is_running()


def test_three_models_share_a_worker_that_holds_two(stack: Stack, tiny_model: Path) -> None:
    for version in ("2", "3"):
        stack.mnemos("models", "push", str(tiny_model), f"--name=tiny:{version}")
    worker = stack.start_ready_worker(max_concurrent_jobs=8, engine_memory_mb=1000)
    jobs = []
    for index in range(60):
        job = tiny_job("three", index)
        job["model"]["version"] = str(index % 3 + 1)
        jobs.append(job)

    job_ids = stack.submit(jobs)

    most = 0
    while finished(stack, "three") < len(jobs):
        assert worker.alive, worker.tail()
        most = max(most, len(engines_of(worker.pid)))
    statuses = {stack.job(job_id)["status"] for job_id in job_ids}
    assert statuses == {"completed"}
    counted = {version: loads(worker, f"tiny:{version}") for version in "123"}
    assert all(counted.values()), counted
    assert sum(counted.values()) < 20, counted
    assert most == 2, "the worker's memory fits two"


def test_a_job_cannot_switch_on_what_only_the_operator_may(stack: Stack) -> None:
    stack.start_ready_worker()
    job = tiny_job("trust", 0)
    job["model"]["runtime_config"] = {"trust_remote_code": True}
    (job_id,) = stack.submit([job])

    wait_until(lambda: finished(stack, "trust") == 1, what="the refusal")

    error = stack.job(job_id)["error"]
    assert error["code"] == "invalid_input"
    assert "NEURON_ALLOW_REMOTE_CODE" in error["message"]


def test_rows_that_were_finished_survive_their_engine(stack: Stack) -> None:
    worker = stack.start_ready_worker(max_batch_size=2)
    rows = [{"id": str(index), "prompt": f"row {index}"} for index in range(12)]
    parameters = {"max_tokens": 400, "ignore_eos": True, "temperature": 0}
    job = {
        "model": {"family": "tiny", "version": "1"},
        "job_type": "batch_inference",
        "input": {"inputs": rows, "parameters": parameters},
        "group": "rows",
    }
    (job_id,) = stack.submit([job])

    def rows_kept() -> bool:
        return "of 12 rows" in str(stack.job(job_id)["status_message"])

    wait_until(rows_kept, what="a finished row")
    engines_of(worker.pid)[0].kill()
    wait_until(lambda: finished(stack, "rows") == 1, seconds=120, what="the job's end")

    done = stack.job(job_id)
    assert done["status"] == "completed", json.dumps(done["error"])
    assert [row["id"] for row in done["result"]] == [row["id"] for row in rows]
    assert {row["tokens_generated"] for row in done["result"]} == {400}
    assert done["attempt"] == 2
    assert 0 < done["output_metadata"]["rows_resumed"] < 12
