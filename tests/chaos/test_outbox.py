"""Answers finished while CORTEX was down, whose worker was killed before it came back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from stack import Stack, running_stack, wait_until
from tiny_stack import TINY, finished, running, tiny_job

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

JOBS = 4
TOKENS = 1000


@pytest.fixture
def patient_stack(tmp_path: Path, tiny_model: Path) -> Iterator[Stack]:
    """Leases that last until jobs have finished without CORTEX."""
    with running_stack(tmp_path, CORTEX_LEASE_SECONDS="60") as stack:
        stack.start_platform()
        stack.mnemos("models", "push", str(tiny_model), "--name", TINY)
        yield stack


def answers_on_disk(worker_port: int) -> float:
    """Return how many reports would outlive the worker if it died now."""
    lines = httpx2.get(f"http://127.0.0.1:{worker_port}/metrics", timeout=5).text.splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith("neuron_outbox_reports "))
    return float(value)


def test_answers_outlive_cortex_and_then_their_worker(patient_stack: Stack) -> None:
    stack = patient_stack
    worker, port = stack.start_worker(max_concurrent_jobs=JOBS)
    stack.wait_for_http(f"http://127.0.0.1:{port}/ready", worker)
    warm = stack.submit([tiny_job("warm", 0)])
    wait_until(lambda: finished(stack, "warm") == len(warm), what="a loaded model")
    job_ids = stack.submit(
        [tiny_job("kept", index, max_tokens=TOKENS, stream=index % 2 == 0) for index in range(JOBS)]
    )
    wait_until(lambda: running(stack, "kept") == JOBS, what=f"{JOBS} running jobs")

    stack.processes[0].kill()
    wait_until(
        lambda: answers_on_disk(port) == JOBS,
        what=f"{JOBS} answers kept without CORTEX\n{worker.tail()}",
    )
    worker.kill()
    second, _ = stack.start_worker(max_concurrent_jobs=JOBS)
    stack.start_platform()

    wait_until(lambda: finished(stack, "kept") == JOBS, what=f"{JOBS} results\n{second.tail()}")
    for job_id in job_ids:
        job = stack.job(job_id)
        assert [attempt["outcome"] for attempt in job["attempts"]] == ["completed"], job["attempts"]
        assert job["output_metadata"]["tokens_generated"] == TOKENS
    assert len(stack.get("/api/v1/workers")["workers"]) == 1
    second.signal(signal.SIGTERM)
    assert second.wait() == 0, second.tail()
