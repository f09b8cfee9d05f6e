"""What `mnemos up` is asked to start, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..engram import EngramTarget

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """A platform's shape. Port 0 draws a free one."""

    data_dir: Path
    engram: EngramTarget
    host: str = LOOPBACK
    http_port: int = 8080
    grpc_port: int = 9090
    genome_port: int = 8081
    worker_port: int = 8000
    workers: int = 1
    max_concurrent_jobs: int = 16
    drain_seconds: float = 30.0
    quiet: bool = False

    @property
    def logs_dir(self) -> Path:
        """Where `--quiet` writes."""
        return self.data_dir / "logs"

    @property
    def state_file(self) -> Path:
        """What tells other processes where this platform answers; there while it runs."""
        return self.data_dir / "up.json"


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where a running platform answers."""

    cortex_url: str
    cortex_grpc: str
    genome_url: str
    engram_url: str
