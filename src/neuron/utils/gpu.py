"""GPU detection and monitoring by NVML: no torch, and never on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import structlog

from ..models.worker import GPUInfo

logger = structlog.get_logger(__name__)

_MIB = 1024 * 1024


async def detect_gpus() -> list[int]:
    """Return the indices of the GPUs that NVML knows; none where there is no driver."""
    indices = await asyncio.to_thread(_detect)
    if indices:
        logger.info("gpus_detected", count=len(indices))
    else:
        logger.info("no_gpus_detected")
    return indices


async def get_gpu_stats(device_indices: list[int]) -> list[GPUInfo]:
    """Return how the GPUs are now; a GPU that fell off the bus is left out."""
    return await asyncio.to_thread(_stats, device_indices) if device_indices else []


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    import pynvml  # loads the driver's library, so only where it is asked for

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _detect() -> list[int]:
    try:
        with _nvml() as nvml:
            return list(range(nvml.nvmlDeviceGetCount()))
    except Exception as error:  # noqa: BLE001 - NVML's errors derive from Exception only
        logger.debug("nvml_unavailable", error=str(error))
        return []


def _stats(indices: list[int]) -> list[GPUInfo]:
    try:
        with _nvml() as nvml:
            found = [_one(nvml, index) for index in indices]
    except Exception as error:  # noqa: BLE001 - NVML's errors derive from Exception only
        logger.warning("gpu_stats_failed", error=str(error))
        return []
    return [gpu for gpu in found if gpu is not None]


def _one(nvml: Any, index: int) -> GPUInfo | None:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        logger.warning("gpu_lost", index=index, error=str(error))
        return None

    def ask(name: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, name)(handle, *arguments)
        except nvml.NVMLError:
            return None

    utilization = ask("nvmlDeviceGetUtilizationRates")
    power = ask("nvmlDeviceGetPowerUsage")
    temperature = ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
    return GPUInfo(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        total_memory_mb=max(1, memory.total // _MIB),
        available_memory_mb=memory.free // _MIB,
        utilization_percent=min(100.0, float(utilization.gpu)) if utilization else 0.0,
        temperature_celsius=None if temperature is None else float(temperature),
        power_watts=None if power is None else power / 1000,
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
