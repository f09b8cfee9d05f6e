"""A real worker whose connection is cut, with the default lease of 15 s."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from echo_jobs import echo_job, echo_text
from fault_proxy import FaultProxy
from stack import Stack, running_stack, wait_until
from tiny_stack import finished, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

JOBS = 4


@pytest.fixture
def default_stack(tmp_path: Path) -> Iterator[Stack]:
    """A platform with CORTEX's own lease and suspicion."""
    with running_stack(tmp_path) as stack:
        stack.start_platform()
        yield stack


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
