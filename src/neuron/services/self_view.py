"""How a worker looks from outside: to CORTEX, to the API, to an operator."""

from __future__ import annotations

from typing import Any

from ..config import Settings
from ..models.worker import WorkerStatus
from ..utils.metrics import WorkerMetrics
from .assembly import WorkerParts
from .heartbeat import WorkerReport
from .lifecycle import Lifecycle, WorkerPhase


class WorkerSelfView:
    """Answers from what the worker's parts know; asks nobody, waits for nothing."""

    def __init__(self, settings: Settings, metrics: WorkerMetrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.lifecycle = Lifecycle()
        self.parts: WorkerParts | None = None
        self.paused = False
        self.stop_reason = ""
        self.config_error = ""

    @property
    def worker_id(self) -> str | None:
        """The id that CORTEX gave; None before the first registration."""
        parts = self.parts
        return parts.registrar.worker_id if parts and parts.registrar.registered else None

    @property
    def status(self) -> WorkerStatus:
        """What CORTEX is told; `error` while no runtime that was asked for can run here."""
        parts = self.parts
        if self.lifecycle.is_running and parts is not None and not parts.offers_a_runtime:
            return WorkerStatus.ERROR
        return self.lifecycle.status

    def not_ready_because(self) -> list[str]:
        """Say why no jobs are taken; empty if they are."""
        reasons = []
        if self.lifecycle.phase in (WorkerPhase.SHUTTING_DOWN, WorkerPhase.STOPPED):
            reasons.append(f"the worker shuts down ({self.stop_reason})")
        elif not self.lifecycle.is_running:
            reasons.append(f"the worker is {self.lifecycle.phase.value}")
        if self.paused:
            reasons.append("the worker is paused")
        return reasons + (self._parts_not_ready_because(self.parts) if self.parts else [])

    def _parts_not_ready_because(self, parts: WorkerParts) -> list[str]:
        reasons = []
        if not parts.registrar.registered:
            reasons.append("the worker is not registered with CORTEX")
        if parts.cortex.last_error is not None:
            reasons.append(f"CORTEX: {parts.cortex.last_error}")
        if parts.outbox.full:
            reasons.append(
                f"the outbox is full: {self.settings.outbox_mb} MB of results and tokens wait for"
                " CORTEX to take them"
            )
        if not parts.offers_a_runtime:
            reasons.extend(self._lacking_runtimes(parts))
        return reasons

    def warnings(self) -> list[str]:
        """Say what is wrong but does not keep jobs away."""
        warnings = [self.config_error] if self.config_error else []
        if self.parts is not None:
            warnings.extend(self.parts.neighbours.warnings)
            if self.parts.outbox.trouble is not None:
                warnings.append(self.parts.outbox.trouble)
            if self.parts.offers_a_runtime:
                warnings.extend(self._lacking_runtimes(self.parts))
        return warnings

    def info(self) -> dict[str, Any]:
        """Describe the worker; no secrets."""
        described: dict[str, Any] = {
            "worker_id": self.worker_id,
            "hostname": self.settings.hostname,
            "status": self.status.value,
            "state": self.lifecycle.phase.value,
            "paused": self.paused,
            "settings": self.settings.shown(),
        }
        return described | (self._describe_parts(self.parts) if self.parts else {})

    def _describe_parts(self, parts: WorkerParts) -> dict[str, Any]:
        latest = parts.monitor.latest
        return {
            "capabilities": parts.capabilities().model_dump(mode="json"),
            "models": [model.model_dump(mode="json") for model in parts.engines.loaded_models],
            "current_jobs": parts.executor.get_active_job_ids(),
            "total_jobs_completed": parts.executor.total_completed,
            "total_jobs_failed": parts.executor.total_failed,
            "resources": latest.model_dump(mode="json") if latest else None,
        }

    def refresh_metrics(self) -> None:
        """Bring the gauges up to date."""
        self.metrics.worker.info(
            {
                "worker_id": self.worker_id or "",
                "version": self.settings.version,
                "hostname": self.settings.hostname,
            }
        )
        self.metrics.ready.set(0 if self.not_ready_because() else 1)
        if self.parts is not None:
            slots = self.parts.executor.slots
            busy = min(len(self.parts.executor.active_jobs), slots.taken)
            self.metrics.slots.labels("total").set(slots.capacity)
            self.metrics.slots.labels("busy").set(busy)
            self.metrics.slots.labels("asked_for").set(slots.taken - busy)
            self.metrics.slots.labels("free").set(slots.free)

    def report(self) -> WorkerReport:
        """Return what the next heartbeat says."""
        parts = self.parts
        assert parts is not None, "a heartbeat needs an assembled worker"
        starting = self.lifecycle.phase is WorkerPhase.STARTING
        reasons = [] if starting else self.not_ready_because()
        return WorkerReport(
            status=self.status,
            status_reason="; ".join([*reasons, *self.warnings()]),
            models=parts.engines.loaded_models,
            attempts=parts.leases.refs,
            acknowledged_action_ids=parts.inbox.unacknowledged,
            total_completed=parts.executor.total_completed,
            total_failed=parts.executor.total_failed,
            cached_models=parts.disk_models.models,
            wants_hints=self.settings.prefetch and self.lifecycle.is_running and not self.paused,
        )

    def note_activity(self) -> bool:
        """Be busy or idle, as the jobs are; return whether that is news."""
        if not self.lifecycle.is_running or self.parts is None:
            return False
        before = self.lifecycle.phase
        busy = bool(self.parts.executor.active_jobs)
        self.lifecycle.enter(WorkerPhase.BUSY if busy else WorkerPhase.IDLE)
        return self.lifecycle.phase is not before

    @staticmethod
    def _lacking_runtimes(parts: WorkerParts) -> list[str]:
        asked = parts.settings.supported_runtimes
        return [reason for runtime, reason in parts.unavailable.items() if runtime in asked]
