"""An answer too large for a message, from a real worker to a file of its reader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from stack import Stack, running_stack, wait_until
from tiny_stack import finished

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WORD = "x" * 1000
TOKENS = 5000
ANSWER = " ".join([WORD] * TOKENS)
"""About 5 MB; a message has 3 MiB."""


def big_job(group: str) -> dict[str, object]:
    return {
        "model": {"family": "echo", "version": "1", "runtime": "echo"},
        "input": {"prompt": WORD, "parameters": {"max_tokens": TOKENS}},
        "group": group,
    }


@pytest.fixture
def echo_stack(tmp_path: Path) -> Iterator[Stack]:
    with running_stack(tmp_path) as stack:
        stack.start_platform()
        stack.start_ready_worker(supported_runtimes="echo")
        yield stack


def run_big_job(stack: Stack) -> str:
    [job_id] = stack.submit([big_job("big")])
    wait_until(lambda: finished(stack, "big") == 1, what="the end of the job")
    job = stack.job(job_id)
    assert job["status"] == "completed", job
    assert job["output_metadata"]["tokens_generated"] == TOKENS
    return job_id


def test_a_big_answer_is_read_like_any_other(echo_stack: Stack, tmp_path: Path) -> None:
    stack = echo_stack
    job_id = run_big_job(stack)

    answer = httpx2.get(f"{stack.cortex_url}/api/v1/jobs/{job_id}/result", timeout=30)
    assert answer.headers["mnemos-result"] == "stored"
    assert answer.json() == ANSWER

    shown = stack.mnemos("jobs", "show", job_id).stdout
    assert f"mnemos jobs result {job_id}" in shown
    path = tmp_path / "answer.json"
    stack.mnemos("jobs", "result", job_id, "--to", str(path))
    assert json.loads(path.read_bytes()) == ANSWER
    assert json.loads(stack.mnemos("jobs", "result", job_id).stdout) == ANSWER
    stack.mnemos("jobs", "result", "job_nobody", "--to", str(tmp_path / "none"), status=3)
    assert sorted(left.name for left in tmp_path.glob("none*")) == []


def test_where_cortex_cannot_read_it_the_command_line_does(tmp_path: Path) -> None:
    with running_stack(tmp_path, CORTEX_RESULT_BUCKET="another-bucket") as stack:
        stack.start_platform()
        stack.start_ready_worker(supported_runtimes="echo")
        job_id = run_big_job(stack)
        told = stack.get(f"/api/v1/jobs/{job_id}/result")
        assert told["result_reference"]["engram"].startswith("mnemos-results/jobs/")

        path = tmp_path / "answer.json"
        stack.mnemos("jobs", "result", job_id, "--to", str(path))
        assert json.loads(path.read_bytes()) == ANSWER

        stored = stack.data_dir / "engram" / told["result_reference"]["engram"]
        stored.write_bytes(stored.read_bytes().replace(b"x x", b"x y"))
        path.write_text("what was there before")
        failed = stack.mnemos("jobs", "result", job_id, "--to", str(path), status=1)
        assert "damaged" in failed.stderr
        assert path.read_text() == "what was there before"
