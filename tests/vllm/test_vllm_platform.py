"""vLLM behind the whole system: adapters, guided rows, and a death in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from stack import Process, Stack, running_stack, wait_until
from tiny_llama import build_tiny_llama
from tiny_lora import build_tiny_lora
from tiny_stack import finished

CONFIG = {"dtype": "float32", "max_num_seqs": 16, "enable_lora": True}
ANSWER = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A platform that knows the tiny model and an adapter for it."""
    root = tmp_path_factory.mktemp("vllm-system")
    with running_stack(root, CORTEX_LEASE_SECONDS="5") as stack:
        stack.start_platform()
        model = build_tiny_llama(root / "tiny", hidden_size=128, context=1024)
        adapter = build_tiny_lora(root / "adapter")
        stack.mnemos("models", "push", str(model), "--name=tiny:1", "--runtime=vllm")
        stack.mnemos("models", "push", str(adapter), "--name=accent:1")
        yield stack


@pytest.fixture(scope="module")
def worker(stack: Stack) -> Process:
    return stack.start_ready_worker(
        supported_runtimes="vllm", vllm_python=os.environ["NEURON_VLLM_PYTHON"]
    )


def job(group: str, prompt: str = "Hello", **parameters: Any) -> dict[str, Any]:
    return {
        "model": {"family": "tiny", "version": "1", "runtime_config": CONFIG},
        "input": {"prompt": prompt, "parameters": {**ANSWER, **parameters}},
        "group": group,
    }


def ended(stack: Stack, group: str, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    job_ids = stack.submit(jobs)
    wait_until(lambda: finished(stack, group) == len(jobs), seconds=240, what=f"all of {group}")
    return [stack.job(job_id) for job_id in job_ids]


def test_an_adapter_is_fetched_and_changes_the_answer(stack: Stack, worker: Process) -> None:
    plain, adapted = ended(stack, "lora", [job("lora"), job("lora", adapter="accent:1")])

    assert plain["status"] == adapted["status"] == "completed", (plain, adapted)
    assert adapted["output_metadata"]["adapter"] == "accent:1"
    assert adapted["result"] != plain["result"]
    assert worker.alive


def test_guided_rows_and_scores_of_one_evaluation(stack: Stack, worker: Process) -> None:
    evaluation = job("rows", choice=["yes", "no"], metrics=["exact_match", "perplexity"])
    evaluation["job_type"] = "evaluation"
    del evaluation["input"]["prompt"]
    evaluation["input"]["inputs"] = [
        {"prompt": f"Is {number} even?", "reference": ["yes", "no"]} for number in range(8)
    ]

    (done,) = ended(stack, "rows", [evaluation])

    assert done["status"] == "completed", done["error"]
    assert {row["result"] for row in done["result"]} <= {"yes", "no"}
    scores = done["output_metadata"]["scores"]
    assert scores["exact_match"] == 1
    assert scores["perplexity"] > 1


def test_32_jobs_survive_the_death_of_vllm_s_core(stack: Stack, worker: Process) -> None:
    jobs = [job("core", f"number {number}", max_tokens=700) for number in range(32)]
    job_ids = stack.submit(jobs)
    wait_until(lambda: stack.count("executing", "core") >= 8, seconds=120, what="running jobs")
    family = psutil.Process(worker.pid).children(recursive=True)
    cores = [process for process in family if "EngineCore" in " ".join(process.cmdline())]
    assert cores, [process.cmdline() for process in family]

    cores[0].send_signal(signal.SIGKILL)

    wait_until(lambda: finished(stack, "core") == 32, seconds=240, what="all jobs")
    done = [stack.job(job_id) for job_id in job_ids]
    assert {one["status"] for one in done} == {"completed"}
    assert any(one["attempt"] > 1 for one in done), "nothing was caught"
    assert worker.alive, worker.tail()


def test_nothing_is_left_of_a_killed_worker(stack: Stack, worker: Process, tmp_path: Path) -> None:
    family = psutil.Process(worker.pid).children(recursive=True)
    assert len(family) >= 3, "a guard, an engine and its core"

    worker.kill()

    _, left = psutil.wait_procs(family, timeout=5)
    assert not left, f"left behind: {left}"
