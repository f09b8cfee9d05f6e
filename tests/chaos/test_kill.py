"""The promises about crashes, kept while processes are killed with -9."""

from __future__ import annotations

import signal

import psutil
import pytest
from ports import lasting_ports
from stack import MNEMOS, Stack, wait_until
from tiny_stack import finished, running, tiny_job

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

JOBS = 50
LONG_TOKENS = 1000


def submit_long_jobs(stack: Stack, group: str) -> list[str]:
    jobs = [
        tiny_job(group, index, max_tokens=LONG_TOKENS, stream=index % 2 == 0)
        for index in range(JOBS)
    ]
    return stack.submit(jobs)


def assert_each_completed_once(stack: Stack, job_ids: list[str]) -> None:
    for job_id in job_ids:
        job = stack.job(job_id)
        outcomes = [attempt["outcome"] for attempt in job["attempts"]]
        assert job["status"] == "completed", job
        assert outcomes.count("completed") == 1, outcomes
        assert job["output_metadata"]["tokens_generated"] == LONG_TOKENS


def wait_for_all(stack: Stack, group: str) -> None:
    wait_until(
        lambda: finished(stack, group) == JOBS, seconds=200, what=f"the end of all {JOBS} jobs"
    )


def test_worker_killed_amid_fifty_running_jobs(stack: Stack) -> None:
    worker = stack.start_ready_worker(max_concurrent_jobs=JOBS)
    job_ids = submit_long_jobs(stack, "kill-worker")
    wait_until(lambda: running(stack, "kill-worker") == JOBS, what=f"{JOBS} running jobs")
    engines = psutil.Process(worker.pid).children(recursive=True)

    worker.kill()

    assert engines, "no engine process ran"
    _, left = psutil.wait_procs(engines, timeout=5)
    assert not left, f"engines outlived their worker: {left}"
    assert finished(stack, "kill-worker") < JOBS, "the jobs were too short to be caught"
    stack.start_ready_worker(max_concurrent_jobs=JOBS)
    wait_for_all(stack, "kill-worker")
    assert_each_completed_once(stack, job_ids)
    lost = [
        attempt for attempt in stack.job(job_ids[-1])["attempts"] if attempt["outcome"] == "lost"
    ]
    assert len(lost) == 1


def test_cortex_killed_amid_fifty_running_jobs(stack: Stack) -> None:
    worker = stack.start_ready_worker(max_concurrent_jobs=JOBS)
    job_ids = submit_long_jobs(stack, "kill-cortex")
    wait_until(lambda: running(stack, "kill-cortex") == JOBS, what=f"{JOBS} running jobs")

    stack.processes[0].kill()
    stack.start_platform()

    wait_for_all(stack, "kill-cortex")
    assert worker.alive, worker.tail()
    assert_each_completed_once(stack, job_ids)


def test_nothing_submitted_is_lost_when_cortex_dies_before_any_worker_came(stack: Stack) -> None:
    job_ids = stack.submit([tiny_job("early", index) for index in range(JOBS)])
    stack.processes[0].kill()

    stack.start_platform()

    assert {stack.job(job_id)["status"] for job_id in job_ids} == {"pending"}


def test_sigterm_hands_back_what_cannot_finish(stack: Stack) -> None:
    worker = stack.start_ready_worker(max_concurrent_jobs=JOBS, shutdown_timeout=1)
    job_ids = submit_long_jobs(stack, "drain")
    wait_until(lambda: running(stack, "drain") == JOBS, what=f"{JOBS} running jobs")

    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0, worker.tail()
    jobs = [stack.job(job_id) for job_id in job_ids]
    assert {job["status"] for job in jobs} <= {"pending", "completed"}
    assert all(job["retries_used"] == 0 for job in jobs)
    assert any(job["status"] == "pending" for job in jobs), "nothing was handed back"
    assert stack.get("/api/v1/workers")["workers"] == []
    stack.start_ready_worker(max_concurrent_jobs=JOBS)
    wait_for_all(stack, "drain")
    assert_each_completed_once(stack, job_ids)


def test_sigterm_lets_short_jobs_finish(stack: Stack) -> None:
    worker = stack.start_ready_worker(max_concurrent_jobs=4, shutdown_timeout=60)
    job_ids = stack.submit([tiny_job("short", index, max_tokens=300) for index in range(4)])
    wait_until(lambda: running(stack, "short") > 0, what="a running job")

    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0, worker.tail()
    assert [stack.job(job_id)["status"] for job_id in job_ids] == ["completed"] * 4


def test_a_killed_up_leaves_nothing_behind_and_starts_again_at_once(stack: Stack) -> None:
    http_port, grpc_port, genome_port, worker_port = lasting_ports(4)
    command = [
        *MNEMOS,
        "up",
        f"--data-dir={stack.root / 'second'}",
        f"--http-port={http_port}",
        f"--grpc-port={grpc_port}",
        f"--genome-port={genome_port}",
        f"--worker-port={worker_port}",
    ]
    up = stack.spawn("second-up", command, stack.cli_environment())
    stack.wait_for_http(f"http://127.0.0.1:{worker_port}/ready", up)
    children = psutil.Process(up.pid).children(recursive=True)

    up.kill()
    again = stack.spawn("second-up", command, stack.cli_environment())

    assert children
    _, left = psutil.wait_procs(children, timeout=10)
    assert not left, f"left behind: {left}"
    stack.wait_for_http(f"http://127.0.0.1:{worker_port}/ready", again)
