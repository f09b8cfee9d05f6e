"""Workers whose connections end, with the default lease of 15 s, as real processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from echo_jobs import echo_job, echo_text
from fault_proxy import FaultProxy
from stack import Stack, running_stack, wait_until
from tiny_stack import TINY, finished, running, tiny_job

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

JOBS = 4
SUSPICION_SECONDS = 3.0
BACKOFF_SECONDS = 1.0
"""The most that the first retry of a lost attempt waits."""
ALLOWANCE_SECONDS = 1.0


@pytest.fixture
def default_stack(tmp_path: Path) -> Iterator[Stack]:
    """A platform with CORTEX's own lease and suspicion."""
    with running_stack(tmp_path) as stack:
        stack.start_platform()
        yield stack


def test_jobs_of_a_killed_worker_run_elsewhere_long_before_their_lease_is_over(
    default_stack: Stack, tiny_model: Path
) -> None:
    stack = default_stack
    stack.mnemos("models", "push", str(tiny_model), "--name", TINY)
    worker = stack.start_ready_worker(max_concurrent_jobs=JOBS)
    job_ids = stack.submit(
        [tiny_job("kill", index, max_tokens=2000, stream=True) for index in range(JOBS)]
    )
    wait_until(lambda: running(stack, "kill") == JOBS, what=f"{JOBS} running jobs")
    stack.start_ready_worker(max_concurrent_jobs=JOBS, pinned_models=TINY)

    killed_at = time.time()
    worker.kill()

    def taken_at() -> list[float]:
        attempts = [stack.job(job_id)["attempts"] for job_id in job_ids]
        return [_instant(some[1]["started_at"]) for some in attempts if len(some) > 1]

    wait_until(lambda: len(taken_at()) == JOBS, what=f"{JOBS} second attempts")
    waited = [at - killed_at for at in taken_at()]
    assert min(waited) >= SUSPICION_SECONDS - 0.1, "nobody waited for the worker to come back"
    assert max(waited) <= SUSPICION_SECONDS + BACKOFF_SECONDS + ALLOWANCE_SECONDS, waited


async def test_a_cut_connection_costs_no_attempt(default_stack: Stack) -> None:
    stack, tokens = default_stack, 160  # eight seconds of work, more than suspicion leaves
    async with FaultProxy("127.0.0.1", stack.grpc_port) as proxy:
        job_ids = await asyncio.to_thread(start_jobs, stack, proxy.address, tokens)
        assert proxy.cut() > 0
        await asyncio.to_thread(
            wait_until, lambda: finished(stack, "cut") == JOBS, what=f"the end of {JOBS} jobs"
        )
        assert proxy.faults.connections > 1, "the worker never came back"

    for index, job_id in enumerate(job_ids):
        job = stack.job(job_id)
        assert [attempt["outcome"] for attempt in job["attempts"]] == ["completed"], job["attempts"]
        assert job["result"] == echo_text(index, tokens)


def start_jobs(stack: Stack, address: str, tokens: int) -> list[str]:
    stack.start_ready_worker(
        cortex_grpc_url=address, supported_runtimes="echo", max_concurrent_jobs=JOBS
    )
    job_ids = stack.submit(
        [echo_job("cut", index, tokens=tokens, stream=index % 2 == 0) for index in range(JOBS)]
    )
    wait_until(lambda: running(stack, "cut") == JOBS, what=f"{JOBS} running jobs")
    return job_ids


def _instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
