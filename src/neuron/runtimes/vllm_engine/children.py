"""The processes that vLLM starts: bound to this one, and heard when they fail."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from . import child


@dataclass(frozen=True, slots=True)
class ChildFailure:
    """The exception that a child process died of."""

    type: str
    message: str


class ChildFailures:
    """Where children write what they fail of: memory that only open processes hold."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("vllm-failures", os.MFD_CLOEXEC)
        os.environ[child.FAILURE_VARIABLE] = f"/proc/{os.getpid()}/fd/{self._fd}"

    def first(self) -> ChildFailure | None:
        """The earliest failure, which the later ones follow from; None if none was told."""
        line, newline, _ = os.pread(self._fd, 1 << 16, 0).partition(b"\n")
        return ChildFailure(**json.loads(line)) if newline else None

    def forget(self) -> None:
        """Begin anew, before the next model."""
        os.ftruncate(self._fd, 0)


def adopt_children(log_level: str) -> None:
    """Prepare this process for vLLM; to be called before vllm is imported.

    Children are spawned, never forked: a forked one would hold the engine's sockets open and
    the worker would not see the engine die. Spawned ones run `child` as their main module.
    """
    main = sys.modules["__main__"]
    main.__spec__ = None
    main.__file__ = str(Path(child.__file__).resolve())
    os.environ[child.PARENT_VARIABLE] = str(os.getpid())
    os.environ |= {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_LOGGING_LEVEL": log_level.upper(),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    # Ports between vLLM's processes: for this machine only, unless the operator says otherwise.
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
    os.environ.setdefault("VLLM_LOOPBACK_IP", "127.0.0.1")
