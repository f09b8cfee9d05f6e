"""How soon an idle worker is ready, and what it holds in memory."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psutil
from stack import running_stack

from .report import Row

STARTS = 5
READY_SECONDS = 2.0
RESIDENT_MIB = 120.0


def run() -> list[Row]:
    """Return the median start over five starts and the largest idle process."""
    ready, resident = [], []
    with tempfile.TemporaryDirectory() as folder, running_stack(Path(folder)) as stack:
        stack.start_platform()
        for _ in range(STARTS):
            start = time.monotonic()
            worker = stack.start_ready_worker()
            ready.append(time.monotonic() - start)
            resident.append(psutil.Process(worker.pid).memory_info().rss / 2**20)
            worker.kill()
    return [
        Row(
            "ready after (median of 5)",
            sorted(ready)[STARTS // 2],
            "s",
            f"at most {READY_SECONDS:g}",
            at_most=READY_SECONDS,
        ),
        Row(
            "resident when idle (largest)",
            max(resident),
            "MiB",
            f"at most {RESIDENT_MIB:g}",
            at_most=RESIDENT_MIB,
        ),
    ]
