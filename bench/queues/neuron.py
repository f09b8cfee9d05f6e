"""Our system in the same test: a CORTEX process, a worker process, jobs over HTTP."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stack import Process, Stack, running_stack

from .figures import SLOTS, text_of

GROUP = "bench"
BULK = 1_000
POLL_SECONDS = 0.02
GAP_SECONDS = 0.02
WAIT_SECONDS = 300.0
KEPT_ALIVE_SECONDS = 2.0
"""A connection that was idle for longer may be closed on the other side."""


class Cortex:
    """One keep-alive connection to CORTEX's HTTP API."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._last_at = 0.0

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return a call's JSON; fail on any other status than success."""
        if time.monotonic() - self._last_at > KEPT_ALIVE_SECONDS:
            self._http.close()  # the next request opens it again
        headers = {"content-type": "application/json"}
        text = None if body is None else json.dumps(body)
        self._http.request(method, f"/api/v1{path}", text, headers)
        answer = self._http.getresponse()
        self._last_at = time.monotonic()
        content = answer.read()
        assert answer.status < 300, content
        return json.loads(content)

    def finished(self, group: str) -> int:
        """Count a group's jobs whose result can be read."""
        counts = self.call("GET", f"/groups/{group}/results?limit=1&wait_seconds=0")["counts"]
        return int(counts["finished"])

    def results(self, group: str) -> Iterator[dict[str, Any]]:
        """Read every finished job of a group."""
        cursor = ""
        while True:
            page = self.call(
                "GET", f"/groups/{group}/results?limit=500&wait_seconds=0&after={cursor}"
            )
            if not page["jobs"]:
                return
            yield from page["jobs"]
            cursor = page["next_cursor"]


@contextmanager
def running_cortex(root: Path, database_url: str | None) -> Iterator[tuple[Stack, Cortex]]:
    """Run a CORTEX on PostgreSQL, or on SQLite, and a connection to it."""
    with running_stack(root) as stack:
        settings = {
            "CORTEX_DATA_DIR": str(root / "cortex"),
            "CORTEX_HTTP_PORT": str(stack.http_port),
            "CORTEX_GRPC_PORT": str(stack.grpc_port),
            "CORTEX_LOG_LEVEL": "WARNING",
            **({"CORTEX_DATABASE_URL": database_url} if database_url else {}),
        }
        command = [sys.executable, "-m", "mnemos.cortex"]
        process = stack.spawn("cortex", command, stack.cli_environment() | settings)
        stack.wait_for_http(f"{stack.cortex_url}/ready", process)
        cortex = Cortex(stack.http_port)
        try:
            yield stack, cortex
        finally:
            cortex.close()


def start_worker(stack: Stack) -> Process:
    """Start a worker with the echo runtime, as any other worker is."""
    return stack.start_ready_worker(
        supported_runtimes="echo",
        max_concurrent_jobs=SLOTS,
        heartbeat_interval=30,
        log_level="INFO",
    )


def measure(root: Path, database_url: str | None, jobs: int, singles: int, pickups: int) -> Any:
    """Run one round and return what Figures.add() takes."""
    with running_cortex(root, database_url) as (stack, cortex):
        singles_seconds = enqueue_singly(cortex, singles)
        for first in range(singles, jobs, BULK):
            bodies = [body() for _ in range(min(BULK, jobs - first))]
            cortex.call("POST", "/jobs/batch", {"jobs": bodies})
        start_worker(stack)
        while cortex.finished(GROUP) < jobs:
            time.sleep(POLL_SECONDS)
        ended_at = time.time()
        found = list(cortex.results(GROUP))
        assert len(found) == jobs
        assert all(job["result"] == text_of() for job in found), found[0]
        return {
            "singles_seconds": singles_seconds,
            "first_at": min(job["metrics"]["began_at"] for job in found),
            "ended_at": ended_at,
            "pickup_seconds": [pick_up(cortex) for _ in range(pickups)],
        }


def enqueue_singly(cortex: Cortex, count: int) -> float:
    """Submit jobs one by one; return how many seconds that took."""
    began = time.perf_counter()
    for _ in range(count):
        cortex.call("POST", "/jobs", body())
    return time.perf_counter() - began


def pick_up(cortex: Cortex) -> float:
    """Submit a job to the idle system; return the seconds until the runtime began with it."""
    asked_at = time.time()
    job_id = cortex.call("POST", "/jobs", body("idle"))["job_id"]
    deadline = time.monotonic() + WAIT_SECONDS
    while (job := cortex.call("GET", f"/jobs/{job_id}"))["status"] != "completed":
        assert time.monotonic() < deadline, job
        time.sleep(POLL_SECONDS)
    time.sleep(GAP_SECONDS)
    return float(job["metrics"]["began_at"]) - asked_at


def body(group: str = GROUP) -> dict[str, Any]:
    """A job whose input and whose result take 500 bytes each."""
    return {
        "group": group,
        "model": {"family": "echo", "version": "1", "runtime": "echo"},
        "input": {"prompt": text_of()},
    }
