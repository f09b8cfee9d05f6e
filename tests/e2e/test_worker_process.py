"""What a worker process costs and says before any job comes."""

from __future__ import annotations

import subprocess
import sys

import httpx2
import psutil
import pytest
from stack import NEURON, Stack, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

IDLE_LIMIT_MIB = 120


def test_importing_the_worker_loads_no_torch() -> None:
    program = (
        "import sys, neuron.worker\n"
        "print([m for m in ('torch', 'transformers', 'vllm', 'numpy') if m in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_idle_worker_stays_small(stack: Stack) -> None:
    worker = stack.start_ready_worker()

    resident_mib = psutil.Process(worker.pid).memory_info().rss / 2**20

    assert resident_mib < IDLE_LIMIT_MIB


def test_ready_is_the_truth(stack: Stack) -> None:
    worker, port = stack.start_worker()
    url = f"http://127.0.0.1:{port}"
    stack.wait_for_http(f"{url}/ready", worker)
    assert httpx2.get(f"{url}/health").json()["status"] == "healthy"
    assert "neuron_worker_info" in httpx2.get(f"{url}/metrics").text

    stack.processes[0].kill()

    def says_not_ready() -> bool:
        response = httpx2.get(f"{url}/ready")
        return response.status_code == 503 and "CORTEX" in response.text

    wait_until(says_not_ready, what="503 from /ready after CORTEX died")
    assert httpx2.get(f"{url}/health").status_code == 200


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("NEURON_MAX_CONCURENT_JOBS", "4", "NEURON_MAX_CONCURRENT_JOBS"),
        ("NEURON_MAX_CONCURRENT_JOBS", "none", "max_concurrent_jobs"),
        ("NEURON_SUPPORTED_RUNTIMES", "abacus", "abacus"),
    ],
)
def test_bad_settings_exit_78_with_one_sentence(
    stack: Stack, variable: str, value: str, named: str
) -> None:
    worker = stack.spawn("worker", NEURON, stack.cli_environment() | {variable: value})

    assert worker.wait(30) == 78
    assert named.lower() in worker.text().lower()
    assert "Traceback" not in worker.text()


def test_busy_port_exits_78_and_names_the_setting(stack: Stack) -> None:
    worker, _ = stack.start_worker(api_port=stack.http_port)

    assert worker.wait(30) == 78
    assert "NEURON_API_PORT" in worker.text()
    assert "Traceback" not in worker.text()
