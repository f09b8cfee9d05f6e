"""Jobs for the echo runtime, each with words of its own, and the answers they must get."""

from __future__ import annotations

from typing import Any

TOKEN_SECONDS = 0.05
WORDS = 8


def echo_job(
    group: str,
    index: int,
    *,
    tokens: int = 4,
    stream: bool = False,
    token_seconds: float = TOKEN_SECONDS,
    **more: Any,
) -> dict[str, Any]:
    """Return a job's body: its prompt's few words come round and round, `tokens` of them."""
    prompt = " ".join(_words(index))
    return {
        "model": {
            "family": "echo",
            "version": "1",
            "runtime": "echo",
            "runtime_config": {"token_seconds": token_seconds},
        },
        "input": {"prompt": prompt, "parameters": {"max_tokens": tokens, "stream": stream}},
        "retry_config": {"max_retries": 50, "max_backoff_seconds": 1.0},
        "group": group,
        "idempotency_key": f"{group}-{index}",
        **more,
    }


def echo_text(index: int, tokens: int) -> str:
    """Return what the job must answer."""
    words = _words(index)
    return " ".join(words[place % WORDS] for place in range(tokens))


def _words(index: int) -> list[str]:
    return [f"{index}w{place}" for place in range(WORDS)]
