"""What this machine gives an engine: devices, number formats, threads, memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import torch

_CPU_INFO = Path("/proc/cpuinfo")
_CGROUP = Path("/sys/fs/cgroup")
_MEMORY_FILES = ("memory.max", "memory.current")
_FAST_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_CACHE_SHARE = 0.5


def default_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; emulated it is slower than float32."""
    if sys.platform != "linux":
        return False
    for line in _CPU_INFO.read_text().splitlines():
        name, _, flags = line.partition(":")
        if name.strip().lower() in {"flags", "features"}:
            return not _FAST_BFLOAT16_FLAGS.isdisjoint(flags.split())
    return False


def respect_cpu_quota() -> None:
    """No more threads than the container has CPUs: torch counts the machine's."""
    if "OMP_NUM_THREADS" in os.environ:
        return
    threads = min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = "max", "1"
    if quota != "max":
        threads = min(threads, max(1, round(int(quota) / int(period))))
    torch.set_num_threads(threads)


def memory_mb(device: torch.device) -> int:
    """What this process holds on the device."""
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device)) // 2**20
    return int(psutil.Process().memory_info().rss) // 2**20


def cache_budget(device: torch.device) -> int:
    """Bytes that keys and values may take, once the model is loaded."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * _CACHE_SHARE)
    available = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in _MEMORY_FILES)
        available = min(available, limit - used)
    except (OSError, ValueError):
        pass  # no container, or one without a limit
    return max(0, int(available * _CACHE_SHARE))
