"""CORTEX as a process of its own, which a test may kill and start again on its data."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from ports import lasting_ports

START_SECONDS = 30.0
BATCH = 500
_NEUTRAL = ("NEURON_", "MNEMOS_", "CORTEX_", "GENOME_")


class LiveCortex:
    """One CORTEX on two fixed ports; made by live_cortex()."""

    def __init__(self, folder: Path, settings: dict[str, object]) -> None:
        self.http_port, self.grpc_port = lasting_ports(2)
        self.log = folder / "cortex.log"
        mine = {
            "data_dir": folder / "cortex",
            "http_port": self.http_port,
            "grpc_port": self.grpc_port,
            "log_level": "WARNING",
        } | settings
        clean = {k: v for k, v in os.environ.items() if not k.startswith(_NEUTRAL)}
        self._environment = clean | {f"CORTEX_{k.upper()}": str(v) for k, v in mine.items()}
        self._process: asyncio.subprocess.Process | None = None
        self.http = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{self.http_port}",
            timeout=30,
            limits=httpx2.Limits(max_connections=None),
        )

    @property
    def grpc_address(self) -> str:
        """Where workers dial."""
        return f"127.0.0.1:{self.grpc_port}"

    async def start(self) -> None:
        """Start it and return when it is ready."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "mnemos.cortex",
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        clock = asyncio.get_running_loop().time
        end = clock() + START_SECONDS
        while not await self._is_ready():
            assert self._process.returncode is None, self.tail()
            assert clock() < end, f"not ready within {START_SECONDS:g} s\n{self.tail()}"
            await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """kill -9, and wait for it to be gone. May be called twice."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _is_ready(self) -> bool:
        try:
            return (await self.http.get("/ready")).status_code == 200
        except httpx2.TransportError:
            return False

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    async def submit(self, bodies: list[dict[str, Any]]) -> list[str]:
        """Submit jobs; return their ids, in order."""
        ids: list[str] = []
        for first in range(0, len(bodies), BATCH):
            jobs = {"jobs": bodies[first : first + BATCH]}
            answer = await self.http.post("/api/v1/jobs/batch", json=jobs)
            assert answer.status_code == 200, answer.text
            ids += [line["job_id"] for line in answer.json()["results"]]
        return ids

    async def job(self, job_id: str) -> dict[str, Any]:
        """Show a job."""
        answer = await self.http.get(f"/api/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    async def whole_stream(self, job_id: str) -> str:
        """All events of a job that has ended, as the wire says them."""
        answer = await self.http.get(f"/api/v1/jobs/{job_id}/stream")
        assert answer.status_code == 200, answer.text
        return answer.text


@asynccontextmanager
async def live_cortex(folder: Path, **settings: object) -> AsyncIterator[LiveCortex]:
    """Run CORTEX until the context ends; `settings` are CortexSettings'."""
    cortex = LiveCortex(folder, {"max_lost_workers": 50, **settings})
    async with cortex.http:
        try:
            await cortex.start()
            yield cortex
        finally:
            await cortex.kill()


def text_job(**changes: Any) -> dict[str, Any]:
    """A streamed job that any simulated worker takes and that is retried at once."""
    parameters = {"max_tokens": 100, "stream": True, **changes.pop("parameters", {})}
    return {
        "model": {"family": "sim", "version": "1", "runtime": "transformers"},
        "input": {"prompt": "Hello", "parameters": parameters},
        "retry_config": {"max_retries": 50, "initial_backoff_seconds": 0},
        **changes,
    }
