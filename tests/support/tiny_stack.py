"""Fixtures' parts: a running platform that already knows the tiny model."""

from __future__ import annotations

from typing import Any

from stack import Stack

TINY = "tiny:1"


def tiny_job(
    group: str, index: int, *, max_tokens: int = 8, stream: bool = False, **more: Any
) -> dict[str, Any]:
    """Return a job body for the tiny model that always generates `max_tokens` tokens."""
    return {
        "model": {"family": "tiny", "version": "1", "runtime": "transformers"},
        "input": {
            "prompt": f"prompt number {index}",
            "parameters": {
                "max_tokens": max_tokens,
                "ignore_eos": True,
                "temperature": 0,
                "stream": stream,
            },
        },
        "group": group,
        "idempotency_key": f"{group}-{index}",
        **more,
    }


def finished(stack: Stack, group: str) -> int:
    """Return how many jobs of the group have ended."""
    counts = stack.get(f"/api/v1/groups/{group}/results?limit=1&wait_seconds=0")["counts"]
    ended: int = counts["finished"]
    return ended


def running(stack: Stack, group: str) -> int:
    """Return how many jobs of the group are generating now."""
    return stack.count("executing", group) + stack.count("streaming", group)
