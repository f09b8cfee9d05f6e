"""Sixteen jobs at once against the same sixteen one after another.

Both run on the same worker process with the same loaded model, through the whole system (HTTP
submit, lease, engine, result), so the ratio is what a user gains, not what an engine could.
"""

from __future__ import annotations

import time

from stack import Stack

from .report import Row
from .system import MODEL, smollm2_system

JOBS = 16
TOKENS = 64
TARGET = 2.5


def run() -> list[Row]:
    """Return the ratio of the two durations; the target is at least 2.5."""
    with smollm2_system(max_concurrent_jobs=JOBS) as stack:
        one_by_one = sum(timed(stack, [index]) for index in range(JOBS))
        at_once = timed(stack, list(range(JOBS, 2 * JOBS)))
    tokens = JOBS * TOKENS
    return [
        Row("one after another", one_by_one, "s", f"{tokens / one_by_one:.0f} tokens/s"),
        Row("sixteen at once", at_once, "s", f"{tokens / at_once:.0f} tokens/s"),
        Row("speed-up", one_by_one / at_once, "x", f"at least {TARGET}", TARGET),
    ]


def timed(stack: Stack, indexes: list[int]) -> float:
    """Return the seconds from submitting a job per index to the last one's end."""
    start = time.monotonic()
    finish(stack, indexes)
    return time.monotonic() - start


def finish(stack: Stack, indexes: list[int]) -> None:
    """Submit one job per index and wait until all of them have ended."""
    group = f"bench-{indexes[0]}-{len(indexes)}"
    stack.submit([job(group, index) for index in indexes])
    cursor, done = "", 0
    while done < len(indexes):
        answer = stack.get(
            f"/api/v1/groups/{group}/results?after={cursor}&limit=100&wait_seconds=5"
        )
        cursor, done = answer["next_cursor"], done + len(answer["jobs"])
        assert all(job["status"] == "completed" for job in answer["jobs"]), answer


def job(group: str, index: int) -> dict[str, object]:
    """Return a job body that always generates exactly TOKENS tokens."""
    family, version = MODEL.split(":")
    return {
        "group": group,
        "model": {"family": family, "version": version},
        "input": {
            "prompt": f"Tell me a story about the number {index}.",
            "parameters": {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0},
        },
    }
