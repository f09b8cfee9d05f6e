"""A running system with the real SmolLM2, for benchmarks to send work to."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stack import Stack, running_stack

MODEL = "smollm2:135m-instruct"


@contextlib.contextmanager
def smollm2_system(**worker_settings: str | int | float) -> Iterator[Stack]:
    """Yield a platform and one ready worker that has answered once, so that nothing is cold."""
    with tempfile.TemporaryDirectory() as folder, running_stack(Path(folder)) as stack:
        stack.start_platform()
        stack.mnemos("models", "pull", MODEL, seconds=600)
        stack.start_ready_worker(**worker_settings)
        answer = stack.mnemos(
            "jobs", "submit", "--model", MODEL, "--prompt", "Say hello.", "--wait", "-o", "json"
        )
        assert json.loads(answer.stdout)["status"] == "completed"
        yield stack
