"""How soon a cancelled job's slot is free, from the HTTP request on, on every runtime.

The job is amid generating; the slot is what the worker's /metrics tells. vLLM joins in where
NEURON_VLLM_PYTHON names it.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import tiny_torch
import torch
from stack import Stack, running_stack, wait_until
from torch import nn

from .report import Row
from .system import MODEL

REPEATS = 10
TARGET_MS = 200.0
FAMILY, VERSION = MODEL.split(":")


class Slow(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A model that takes some tens of milliseconds for a row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        square = torch.ones(400, 400) / 400
        for _ in range(20):
            square = square @ square
        return x[:, :3] * square.mean()


def run() -> list[Row]:
    """Return the median and the worst time of each runtime; the target is 200 ms at worst."""
    python = os.environ.get("NEURON_VLLM_PYTHON")
    settings = {"vllm_python": python} if python else {}
    runtimes = ["transformers", "pytorch", *(["vllm"] if python else [])]
    with tempfile.TemporaryDirectory() as folder, running_stack(Path(folder)) as stack:
        stack.start_platform()
        stack.mnemos("models", "pull", MODEL, seconds=600)
        slow = tiny_torch.write_script(Path(folder) / "slow", Slow())
        stack.mnemos("models", "push", str(slow), "--name=slow:1", "--runtime=pytorch")
        worker, port = stack.start_worker(supported_runtimes=",".join(runtimes), **settings)
        metrics = f"http://127.0.0.1:{port}/metrics"
        stack.wait_for_http(f"http://127.0.0.1:{port}/ready", worker)
        return [row for runtime in runtimes for row in measured(stack, metrics, runtime)]


def measured(stack: Stack, metrics: str, runtime: str) -> list[Row]:
    """Return the rows of one runtime; its first job, which loads the model, does not count."""
    times = sorted([cancel_one(stack, metrics, job(runtime)) for _ in range(REPEATS + 1)][1:])
    return [
        Row(f"{runtime}, median", times[REPEATS // 2], "ms"),
        Row(f"{runtime}, worst", times[-1], "ms", f"at most {TARGET_MS:g}", at_most=TARGET_MS),
    ]


def cancel_one(stack: Stack, metrics: str, body: dict[str, Any]) -> float:
    """Return the milliseconds from asking for the cancellation to a free slot."""
    (job_id,) = stack.submit([body])
    working = ("executing", "streaming")
    wait_until(lambda: stack.job(job_id)["status"] in working, seconds=300, what="a running job")
    with httpx2.Client(timeout=10) as client:
        start = time.monotonic()
        client.post(f"{stack.cortex_url}/api/v1/jobs/{job_id}/cancel").raise_for_status()
        while 'neuron_slots{state="busy"} 0.0' not in client.get(metrics).text:
            assert time.monotonic() - start < 30, "the slot was never free"
        return 1000 * (time.monotonic() - start)


def job(runtime: str) -> dict[str, Any]:
    """Return a job that runs far longer than anybody waits here."""
    if runtime == "pytorch":
        rows = [{"x": [1.0, 2.0, 3.0, 4.0]}] * 5000
        return {"model": {"family": "slow", "version": "1"}, "input": {"inputs": rows}}
    parameters = {"max_tokens": 4000, "ignore_eos": True, "temperature": 0, "stream": True}
    config = {"max_model_len": 4096, "max_num_seqs": 16} if runtime == "vllm" else {}
    model = {"family": FAMILY, "version": VERSION, "runtime": runtime, "runtime_config": config}
    return {"model": model, "input": {"prompt": "Tell me a story.", "parameters": parameters}}
