"""CORTEX replicas and workers as processes that a test kills, stops and starts again."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
from cortex_tools import eventually
from ports import lasting_ports
from stack import Process, Stack

CORTEX = [sys.executable, "-m", "mnemos.cortex"]
START_SECONDS = 60.0
"""How long a process may take to serve, however busy the machine is."""


@dataclass(slots=True)
class Replica:
    """One CORTEX, under ports that stay the same when it starts again."""

    http_port: int
    grpc_port: int
    process: Process | None = None
    serves: bool = False
    outages: list[tuple[float, float]] = field(default_factory=list)
    """From when till when it was down, by the machine's clock."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"


@dataclass(slots=True)
class Worker:
    """One worker process."""

    worker_id: str
    dials: str
    slots: int
    process: Process
    stopped: bool = False
    _was_ready: bool = False

    @property
    def serves(self) -> bool:
        """Whether it takes jobs now."""
        self._was_ready = self._was_ready or "worker_ready" in self.process.text()
        return self._was_ready and self.process.alive and not self.stopped


class Fleet:
    """Replicas of CORTEX and workers of the echo runtime; leaving kills whatever still runs."""

    def __init__(
        self,
        root: Path,
        *,
        replicas: int = 1,
        lease_seconds: float = 2.0,
        database_url: str | None = None,
    ) -> None:
        self.lease_seconds = lease_seconds
        self.database_url = database_url
        self.data_dir = root / "cortex"
        ports = lasting_ports(2 * replicas)
        self.replicas = [
            Replica(http, grpc) for http, grpc in zip(ports[::2], ports[1::2], strict=True)
        ]
        self.workers: list[Worker] = []
        self.http = httpx2.AsyncClient(timeout=30, limits=httpx2.Limits(max_connections=None))
        self._root = root
        self._stack = Stack(root, 0, 0, 0)
        self._named = 0

    async def __aenter__(self) -> Self:
        try:
            for replica in self.replicas:
                self.start_replica(replica)
            for replica in self.replicas:
                await self.replica_serves(replica)
        except BaseException:
            self._stack.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.stop()
        await self.http.aclose()

    @property
    def urls(self) -> list[str]:
        """Where the replicas answer."""
        return [replica.url for replica in self.replicas]

    @property
    def addresses(self) -> list[str]:
        """What workers may dial: each replica, and with several of them all at once."""
        single = [replica.grpc_address for replica in self.replicas]
        return single if len(single) == 1 else [*single, f"ipv4:{','.join(single)}"]

    def start_replica(self, replica: Replica) -> None:
        """Start a CORTEX; returns at once."""
        environment = {
            "CORTEX_DATA_DIR": str(self.data_dir),
            "CORTEX_DATABASE_URL": self.database_url or "",
            "CORTEX_LEASE_SECONDS": str(self.lease_seconds),
            "CORTEX_MAX_LOST_WORKERS": "50",
            "CORTEX_HTTP_PORT": str(replica.http_port),
            "CORTEX_GRPC_PORT": str(replica.grpc_port),
        }
        replica.process = self._stack.spawn(
            "cortex", CORTEX, self._stack.cli_environment() | environment
        )

    async def replica_serves(self, replica: Replica) -> None:
        """Return once it is ready."""

        async def ready() -> bool:
            process = replica.process
            assert process is not None
            assert process.alive, process.tail()
            try:
                return (await self.http.get(f"{replica.url}/ready")).status_code == 200
            except httpx2.TransportError:
                return False

        await eventually(ready, "CORTEX is ready", START_SECONDS)
        replica.serves = True

    async def restart_replica(self, replica: Replica) -> None:
        """kill -9 it, and start it again."""
        assert replica.process is not None
        replica.serves = False
        replica.process.kill()
        killed_at = time.time()
        self.start_replica(replica)
        await self.replica_serves(replica)
        replica.outages.append((killed_at, time.time()))

    def start_worker(
        self, slots: int, *, dials: str | None = None, worker_id: str | None = None, **settings: Any
    ) -> Worker:
        """Start a worker; returns at once. Under the id of a dead one it has its outbox too."""
        self._named += 1
        worker_id = worker_id or f"wrk_{self._named}"
        dials = dials or self.addresses[self._named % len(self.addresses)]
        values: dict[str, Any] = {
            "cortex_grpc_url": dials,
            "worker_id": worker_id,
            "supported_runtimes": "echo",
            "max_concurrent_jobs": slots,
            "api_port": 0,
            "log_level": "INFO",
            "outbox_dir": str(self._root / "outbox"),
        }
        process, _ = self._stack.start_worker(**(values | settings))
        worker = Worker(worker_id, dials, slots, process)
        self.workers.append(worker)
        return worker

    async def worker_serves(self, worker: Worker) -> Worker:
        """Return once it takes jobs."""

        async def ready() -> bool:
            assert worker.process.alive, worker.process.tail()
            return worker.serves

        await eventually(ready, f"{worker.worker_id} takes jobs", START_SECONDS)
        return worker

    def kill_worker(self, worker: Worker) -> None:
        """kill -9."""
        worker.process.kill()
        self.workers.remove(worker)

    async def stop_worker_for(self, worker: Worker, seconds: float) -> None:
        """SIGSTOP it, and let it go on `seconds` later."""
        worker.stopped = True
        worker.process.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            worker.process.signal(signal.SIGCONT)
            worker.stopped = False
