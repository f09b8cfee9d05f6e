"""Answers whose worker was killed in the middle are those of an undisturbed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
from figures import Figures, Scale
from near_ties import rounding_decides
from sse_reader import Log
from stack import Stack, running_stack, wait_until
from tiny_llama import build_tiny_llama
from tiny_stack import TINY, finished, tiny_job

pytestmark = pytest.mark.timeout(1800)

TOKENS = 1200
CUT_SHARE = 0.9
"""Of the jobs, so many at least must have been cut in the middle of their text."""
NEAR_TIE_SHARE = 0.025
"""Of the texts, so many at most may hang on the last bit of a float32: one in some 200,000 draws
does with this model, whose weights are random.
"""
RUN_SECONDS = 600.0


def greedy_jobs(group: str, count: int, *, all_streamed: bool) -> list[dict[str, Any]]:
    """All or three of four streamed; prompts and answers with characters of several tokens."""
    jobs = []
    for index in range(count):
        # What is not streamed is kept in CORTEX every 2 s, what is every 30 ms.
        job = tiny_job(group, index, max_tokens=TOKENS, stream=all_streamed or index % 4 != 0)
        job["input"]["prompt"] = f"Grüße {index} aus 東京 🙂"
        jobs.append(job)
    return jobs


def wait_for_tokens(stack: Stack, job_id: str) -> None:
    """Return when CORTEX has tokens of a job, or its end."""
    url = f"{stack.cortex_url}/api/v1/jobs/{job_id}/stream"
    with httpx2.stream("GET", url, timeout=60) as answer:
        for line in answer.iter_lines():
            if line in ("event: token", "event: end"):
                return


def token_ids(stack: Stack, job_id: str) -> list[int]:
    """The tokens of an ended job, as readers were told them."""
    answer = httpx2.get(f"{stack.cortex_url}/api/v1/jobs/{job_id}/stream", timeout=60)
    told = [event for event in Log.of(answer.text).events if event.kind == "token"]
    return [token for event in told for token in event.data["token_ids"]]


def wait_for_all(stack: Stack, group: str, count: int) -> None:
    wait_until(lambda: finished(stack, group) == count, seconds=RUN_SECONDS, what=f"all of {group}")


def is_near_tie(stack: Stack, model: Path, one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two answers to a prompt differ because rounding had to decide."""
    ids = token_ids(stack, one["job_id"]), token_ids(stack, other["job_id"])
    return rounding_decides(model, one["input"]["prompt"], *ids)


def is_cut(job: dict[str, Any]) -> bool:
    """Whether a later attempt went on in the middle of the text."""
    resumed: int = job["output_metadata"]["resumed_tokens"]
    return len(job["attempts"]) > 1 and 0 < resumed < TOKENS


def test_same_text(tmp_path: Path, scale: Scale, figures: Figures) -> None:
    count = scale.of(200, 40)
    with running_stack(tmp_path, CORTEX_LEASE_SECONDS="3") as stack:
        stack.start_platform()
        model = build_tiny_llama(tmp_path / "tiny", context=4096)
        stack.mnemos("models", "push", str(model), "--name", TINY)
        worker = stack.start_ready_worker(max_concurrent_jobs=count, max_batch_size=count)
        calm_ids = stack.submit(greedy_jobs("calm", count, all_streamed=True))
        wait_for_all(stack, "calm", count)
        job_ids = stack.submit(greedy_jobs("killed", count, all_streamed=False))
        for job_id in job_ids:
            wait_for_tokens(stack, job_id)
        worker.kill()
        stack.start_ready_worker(max_concurrent_jobs=count, max_batch_size=count)
        wait_for_all(stack, "killed", count)
        calm = [stack.job(job_id) for job_id in calm_ids]
        killed = [stack.job(job_id) for job_id in job_ids]
        pairs = [(one, other) for one, other in zip(killed, calm, strict=True)]
        differing = [pair for pair in pairs if pair[0]["result"] != pair[1]["result"]]
        near = [pair for pair in differing if is_near_tie(stack, model, *pair)]

    cut = sum(map(is_cut, killed))
    figures.note("greedy jobs", count)
    figures.note("cut in the middle", cut)
    figures.note("tokens kept", sum(job["output_metadata"]["resumed_tokens"] for job in killed))
    figures.note("texts that differ", len(differing) - len(near))
    figures.note("decided by rounding", len(near))
    assert {job["status"] for job in calm + killed} == {"completed"}
    assert {job["output_metadata"]["tokens_generated"] for job in calm + killed} == {TOKENS}
    assert len({job["result"] for job in calm}) > count / 2, "the texts are too much alike"
    assert cut >= CUT_SHARE * count, "too few were cut in the middle"
    assert len(near) == len(differing)
    assert len(near) <= NEAR_TIE_SHARE * count
