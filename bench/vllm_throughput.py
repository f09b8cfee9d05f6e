"""vLLM through CORTEX and NEURON against AsyncLLM called directly.

Both sides run the same model with the same engine arguments on the same prompts, and never at
once: the other side's engine is up, idle, while one is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stack import Stack

from neuron.models.runtime import VLLMConfig
from neuron.runtimes.engine_process import NICENESS
from neuron.runtimes.vllm_engine.arguments import NO_COMPILER, cpu_arguments, engine_arguments

from .report import Row
from .system import MODEL, smollm2_system

JOBS = 64
TOKENS = 64
REPEATS = 3
TARGET = 0.95
KV_CACHE_GIB = "1"
CONFIG = {"dtype": "float32", "max_num_seqs": JOBS, "max_model_len": 1024}
PROMPT = "Tell me a story about the number {}."
DIRECT = Path(__file__).with_name("vllm_direct.py")


class Direct:
    """`vllm_direct.py` in vLLM's environment, which runs all prompts when told to."""

    def __init__(self, python: str, folder: Path) -> None:
        config = VLLMConfig.model_validate(CONFIG)
        arguments = engine_arguments(folder, "direct", config)
        arguments |= cpu_arguments(config, fast_bfloat16=False, free_bytes=0)
        # As nice as an engine: its idle threads would else take time from the other side's.
        command = ["nice", f"-n{NICENESS}", python, str(DIRECT), json.dumps(arguments), str(TOKENS)]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, NO_COMPILER[0]: NO_COMPILER[1], "VLLM_LOGGING_LEVEL": "ERROR"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def run(self, first: int) -> float:
        """Return the seconds from asking for JOBS answers to the last one's end."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{first} {JOBS}\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _line(self) -> str:
        """The next line that is meant for us; vLLM prints some of its own."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):
                return line.removeprefix("> ").strip()
        raise AssertionError(f"vllm_direct.py ended with {self._process.wait()}")


def run() -> list[Row]:
    """Return both throughputs and their ratio; the target is at least 0.95."""
    python = os.environ.get("NEURON_VLLM_PYTHON")
    if not python:
        raise SystemExit("NEURON_VLLM_PYTHON names no Python with vLLM: see docs/vllm.md")
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = KV_CACHE_GIB
    direct_seconds, system_seconds = measured(python)
    direct, system = (
        JOBS * TOKENS / statistics.median(seconds) for seconds in (direct_seconds, system_seconds)
    )
    return [
        Row("AsyncLLM called directly", direct, "tok/s", spread(direct_seconds)),
        Row("through CORTEX and NEURON", system, "tok/s", spread(system_seconds)),
        Row("ratio", system / direct, "x", f"at least {TARGET}", TARGET),
    ]


def measured(python: str) -> tuple[list[float], list[float]]:
    """Return the seconds of each repeat, taken in turns, after one of each that does not count."""
    direct_seconds, system_seconds = [], []
    settings = {"vllm_python": python, "supported_runtimes": "transformers,vllm"}
    with (
        tempfile.TemporaryDirectory() as folder,
        smollm2_system(max_concurrent_jobs=JOBS, log_level="INFO", **settings) as stack,
    ):
        copy_model(stack, Path(folder))
        with running_direct(python, Path(folder)) as direct:
            for repeat in range(REPEATS + 1):
                direct_seconds.append(direct.run(repeat * JOBS))
                system_seconds.append(through_the_system(stack, repeat * JOBS))
    return direct_seconds[1:], system_seconds[1:]


@contextlib.contextmanager
def running_direct(python: str, folder: Path) -> Iterator[Direct]:
    """Yield the direct side, loaded."""
    direct = Direct(python, folder)
    try:
        yield direct
    finally:
        direct.close()


def copy_model(stack: Stack, folder: Path) -> None:
    """Link the files that the worker fetched into a folder for the direct side."""
    family, version = MODEL.split(":")
    for file in (stack.root / "cache" / family / version).iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)


def through_the_system(stack: Stack, first: int) -> float:
    """Return the seconds from submitting JOBS jobs to the last one's end."""
    group = f"vllm-{first}"
    start = time.monotonic()
    stack.submit([job(group, index) for index in range(first, first + JOBS)])
    cursor, done = "", 0
    while done < JOBS:
        answer = stack.get(
            f"/api/v1/groups/{group}/results?after={cursor}&limit=100&wait_seconds=5"
        )
        cursor, done = answer["next_cursor"], done + len(answer["jobs"])
        assert all(job["status"] == "completed" for job in answer["jobs"]), answer
    return time.monotonic() - start


def job(group: str, index: int) -> dict[str, Any]:
    """Return a job body that always generates exactly TOKENS tokens."""
    family, version = MODEL.split(":")
    model = {"family": family, "version": version, "runtime": "vllm", "runtime_config": CONFIG}
    parameters = {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0}
    return {
        "group": group,
        "model": model,
        "input": {"prompt": PROMPT.format(index), "parameters": parameters},
    }


def spread(seconds: list[float]) -> str:
    """Return the shortest and the longest repeat, for the reader to judge the noise."""
    return f"median of {len(seconds)}, {min(seconds):.1f} to {max(seconds):.1f} s"
