"""The whole system as real processes, for tests that start, kill and watch them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from ports import lasting_ports

MNEMOS = [sys.executable, "-m", "mnemos.cli.main"]
NEURON = [sys.executable, "-m", "neuron.worker"]

_HTTP = httpx2.Client(limits=httpx2.Limits(max_keepalive_connections=0))
"""One for all, since making one reads the system's certificates; servers are killed, so it keeps
no connection.
"""

T = TypeVar("T")


def wait_until(
    probe: Callable[[], T | None], *, seconds: float = 60.0, what: str = "the condition"
) -> T:
    """Return the first truthy value of `probe`; fail with `what` when it never comes."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {seconds:g} s")
        time.sleep(0.05)


@dataclass
class Process:
    """A child whose output goes to a file; it never outlives its test."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def kill(self) -> None:
        """kill -9, and wait for it to be gone."""
        self.popen.kill()
        self.popen.wait(30)

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, seconds: float = 60.0) -> int:
        """Return the exit status; fail with the log's end when it does not come."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs\n{self.tail()}") from None

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.text().splitlines()[-lines:])


@dataclass
class Stack:
    """CORTEX + GENOME in one process, ENGRAM as a folder, workers as processes."""

    root: Path
    http_port: int
    grpc_port: int
    genome_port: int
    environment: dict[str, str] = field(default_factory=dict)
    worker_environment: dict[str, str] = field(default_factory=dict)
    """What workers get besides their settings."""
    processes: list[Process] = field(default_factory=list)

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def cortex_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def genome_url(self) -> str:
        return f"http://127.0.0.1:{self.genome_port}"

    @property
    def engram_url(self) -> str:
        return f"file://{self.data_dir / 'engram'}"

    def cli_environment(self) -> dict[str, str]:
        """The variables with which `mnemos` finds this system."""
        return {
            **_clean_environment(),
            "MNEMOS_DATA_DIR": str(self.data_dir),
            "MNEMOS_CORTEX_URL": self.cortex_url,
            "MNEMOS_GENOME_URL": self.genome_url,
            "MNEMOS_ENGRAM_URL": self.engram_url,
            "COLUMNS": "200",
            **self.environment,
        }

    def spawn(self, name: str, command: list[str], environment: Mapping[str, str]) -> Process:
        log = self.root / f"{name}-{len(self.processes)}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=dict(environment)
            )
        process = Process(name, popen, log)
        self.processes.append(process)
        return process

    def start_platform(self) -> Process:
        """Start CORTEX and GENOME and wait until both are ready."""
        process = self.spawn(
            "up",
            [
                *MNEMOS,
                "up",
                "--no-worker",
                f"--http-port={self.http_port}",
                f"--grpc-port={self.grpc_port}",
                f"--genome-port={self.genome_port}",
            ],
            self.cli_environment(),
        )
        for url in (f"{self.cortex_url}/ready", f"{self.genome_url}/health/ready"):
            self.wait_for_http(url, process)
        return process

    def start_worker(self, **settings: str | int | float) -> tuple[Process, int]:
        """Start a worker; return it and its API port at once, ready or not."""
        (port,) = lasting_ports(1)
        variables = {
            "cortex_grpc_url": f"127.0.0.1:{self.grpc_port}",
            "genome_http_url": self.genome_url,
            "minio_endpoint": self.engram_url,
            "supported_runtimes": "transformers",
            "max_concurrent_jobs": 16,
            "heartbeat_interval": 2,
            "model_cache_dir": str(self.root / "cache"),
            "api_host": "127.0.0.1",
            "api_port": port,
            "log_level": "DEBUG",
        } | settings
        environment = {f"NEURON_{name.upper()}": str(value) for name, value in variables.items()}
        environment |= self.worker_environment
        process = self.spawn("worker", NEURON, {**_clean_environment(), **environment})
        return process, port

    def start_ready_worker(self, **settings: str | int | float) -> Process:
        """Start a worker and wait until /ready says 200."""
        process, port = self.start_worker(**settings)
        self.wait_for_http(f"http://127.0.0.1:{port}/ready", process)
        return process

    def wait_for_http(self, url: str, process: Process, seconds: float = 60.0) -> None:
        def answered() -> bool:
            assert process.alive, f"{process.name} ended with {process.popen.returncode}\n" + (
                process.tail()
            )
            try:
                return _HTTP.get(url, timeout=2).status_code == 200
            except httpx2.HTTPError:
                return False

        wait_until(answered, seconds=seconds, what=f"200 from {url}\n{process.tail()}\n")

    def mnemos(
        self, *arguments: str, status: int | None = 0, seconds: float = 120.0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run one `mnemos` command to its end; fail when its exit status is another."""
        done = subprocess.run(
            [*MNEMOS, *arguments],
            env=self.cli_environment(),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            input=stdin,
        )
        if status is not None and done.returncode != status:
            raise AssertionError(
                f"mnemos {' '.join(arguments)} ended with {done.returncode}, not {status}\n"
                f"--- stdout\n{done.stdout[-4000:]}\n--- stderr\n{done.stderr[-4000:]}"
            )
        return done

    def get(self, path: str) -> dict[str, Any]:
        response = _HTTP.get(f"{self.cortex_url}{path}", timeout=10)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def submit(self, jobs: list[dict[str, Any]]) -> list[str]:
        """Submit many jobs at once; return their ids."""
        response = _HTTP.post(
            f"{self.cortex_url}/api/v1/jobs/batch", json={"jobs": jobs}, timeout=30
        )
        response.raise_for_status()
        return [result["job_id"] for result in response.json()["results"]]

    def job(self, job_id: str) -> dict[str, Any]:
        return self.get(f"/api/v1/jobs/{job_id}")

    def count(self, status: str, group: str) -> int:
        answer = self.get(f"/api/v1/jobs?status={status}&group={group}&limit=500")
        return len(answer["jobs"])

    def stop(self) -> None:
        for process in reversed(self.processes):
            if process.alive:
                process.kill()


def _clean_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NEURON_", "MNEMOS_", "CORTEX_", "GENOME_"))
    }


@contextlib.contextmanager
def running_stack(root: Path, **environment: str) -> Iterator[Stack]:
    """Yield a stack with free ports and nothing started; kill all of it at the end."""
    http_port, grpc_port, genome_port = lasting_ports(3)
    stack = Stack(root, http_port, grpc_port, genome_port, dict(environment))
    try:
        yield stack
    finally:
        stack.stop()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
