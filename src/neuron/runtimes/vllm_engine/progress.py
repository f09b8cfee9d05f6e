"""Signs of life from vLLM's scheduler."""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase


class Progress(StatLoggerBase):  # type: ignore[misc]  # vllm is untyped here
    """Counts the scheduler's rounds, those of a long prompt without any token included."""

    def __init__(self) -> None:
        self.rounds = 0

    def record(self, *_: Any, **__: Any) -> None:
        """A round has ended."""
        self.rounds += 1

    def log_engine_initialized(self) -> None:
        """Of no interest: vLLM's log tells."""
