"""What the API may know of the worker it belongs to."""

from __future__ import annotations

from typing import Any, Protocol

from ..utils.metrics import WorkerMetrics


class WorkerView(Protocol):
    """A worker, seen from outside."""

    metrics: WorkerMetrics

    @property
    def worker_id(self) -> str | None: ...

    def not_ready_because(self) -> list[str]:
        """Say why no jobs are taken; empty if they are."""
        ...

    def warnings(self) -> list[str]:
        """Say what is wrong but does not keep jobs away."""
        ...

    def info(self) -> dict[str, Any]:
        """Describe the worker; no secrets."""
        ...

    def refresh_metrics(self) -> None:
        """Bring the gauges up to date."""
        ...
