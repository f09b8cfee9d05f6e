"""System resource monitoring service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

import psutil
import structlog

from ..config import Settings
from ..models.worker import GPUInfo, SystemResources
from ..utils.gpu import detect_gpus, get_gpu_stats
from ..utils.metrics import WorkerMetrics
from ..utils.system import memory_bytes, read_container_limits, usable_cpus

logger = structlog.get_logger(__name__)

_MIB = 1024 * 1024
_GIB = 1024 * _MIB
_LOW_MEMORY_SHARE = 0.05
_LOW_DISK_BYTES = _GIB


class ResourceMonitor:
    """Takes snapshots of the machine, or of the container's share of it, in threads.

    start() may be called again; without it GPUs are not looked at.
    """

    name: ClassVar[str] = "resource_monitor"

    def __init__(self, settings: Settings, metrics: WorkerMetrics | None = None) -> None:
        self.settings = settings
        self.running = False
        self.gpu_devices: list[int] | None = None
        self.latest: SystemResources | None = None
        self._metrics = metrics
        logger.info("resource_monitor_initialized")

    async def start(self) -> None:
        """Find the GPUs, and begin to measure the CPU."""
        if self.running:
            return
        await asyncio.to_thread(psutil.cpu_percent, interval=None)
        self.gpu_devices = await detect_gpus()
        logger.info("resource_monitor_started", gpu_count=len(self.gpu_devices))
        self.running = True

    async def stop(self) -> None:
        """May be called twice."""
        self.running = False
        logger.info("resource_monitor_stopped")

    async def get_current_resources(self) -> SystemResources:
        """Return a snapshot; CPU is the average since the one before."""
        resources = await asyncio.to_thread(self._snapshot)
        if self.gpu_devices:
            resources.gpus = await get_gpu_stats(self.gpu_devices)
        self.latest = resources
        self._note(resources)
        return resources

    def _snapshot(self) -> SystemResources:
        limits = read_container_limits()
        total, available = memory_bytes(limits)
        disk_total, disk_free = self._disk()
        if available < total * _LOW_MEMORY_SHARE:
            logger.warning("memory_low", available_mb=available // _MIB, total_mb=total // _MIB)
        if disk_free < _LOW_DISK_BYTES:
            logger.warning("disk_low", available_mb=disk_free // _MIB)
        return SystemResources(
            cpu_count=usable_cpus(limits),
            cpu_percent=min(100.0, psutil.cpu_percent(interval=None)),
            memory_total_mb=total // _MIB,
            memory_available_mb=available // _MIB,
            disk_total_gb=disk_total / _GIB,
            disk_available_gb=disk_free / _GIB,
        )

    def _disk(self) -> tuple[int, int]:
        """Return the cache's disk in bytes: its size and what is free; 0 if it does not say."""
        try:
            usage = psutil.disk_usage(str(_nearest_existing(self.settings.model_cache_dir)))
        except OSError as error:
            logger.warning("disk_unreadable", error=str(error))
            return 0, 0
        return usage.total, usage.free

    def _note(self, resources: SystemResources) -> None:
        if self._metrics is None:
            return
        self._metrics.cpu_percent.set(resources.cpu_percent)
        self._metrics.memory_available.set(resources.memory_available_mb * _MIB)
        for gpu in resources.gpus:
            self._note_gpu(gpu)

    def _note_gpu(self, gpu: GPUInfo) -> None:
        assert self._metrics is not None
        label = str(gpu.index)
        self._metrics.gpu_memory_available.labels(label).set(gpu.available_memory_mb * _MIB)
        self._metrics.gpu_utilization.labels(label).set(gpu.utilization_percent)


def _nearest_existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
