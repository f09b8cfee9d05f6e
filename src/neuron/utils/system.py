"""What of the machine belongs to this process, a container's limits included."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUP_ROOT = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class ContainerLimits:
    """The cgroup's share; None where it sets no limit."""

    cpus: float | None = None
    memory_limit_bytes: int | None = None
    memory_used_bytes: int | None = None


def read_container_limits(root: Path = CGROUP_ROOT) -> ContainerLimits:
    """Read the limits of cgroup v2, else v1; without either, none. Reads files: use a thread."""
    if (root / "cgroup.controllers").exists():
        return _read_v2(_own_v2_group(root), root)
    return _read_v1(root)


def _own_v2_group(root: Path) -> Path:
    for line in _read_text(Path("/proc/self/cgroup")).splitlines():
        if line.startswith("0::"):
            group = root / line[3:].strip().lstrip("/")
            return group if group.is_dir() else root
    return root


def _read_v2(group: Path, root: Path) -> ContainerLimits:
    limits = ContainerLimits()
    for directory in (group, *group.parents):
        limits = _tighter(limits, _v2_directory(directory))
        if directory == root:
            break
    return limits


def _v2_directory(directory: Path) -> ContainerLimits:
    quota, _, period = _read_text(directory / "cpu.max").partition(" ")
    memory = _to_int(_read_text(directory / "memory.max"))
    used = None
    if memory is not None:
        current = _to_int(_read_text(directory / "memory.current")) or 0
        used = max(0, current - _stat(directory / "memory.stat", "inactive_file"))
    return ContainerLimits(_cpus(_to_int(quota), _to_int(period)), memory, used)


def _read_v1(root: Path) -> ContainerLimits:
    memory = _to_int(_read_text(root / "memory/memory.limit_in_bytes"))
    if memory is not None and memory >= _NO_LIMIT:
        memory = None
    used = None
    if memory is not None:
        current = _to_int(_read_text(root / "memory/memory.usage_in_bytes")) or 0
        used = max(0, current - _stat(root / "memory/memory.stat", "total_inactive_file"))
    quota = _to_int(_read_text(root / "cpu/cpu.cfs_quota_us"))
    period = _to_int(_read_text(root / "cpu/cpu.cfs_period_us"))
    return ContainerLimits(_cpus(quota, period), memory, used)


def _tighter(one: ContainerLimits, other: ContainerLimits) -> ContainerLimits:
    cpus = min((c for c in (one.cpus, other.cpus) if c is not None), default=None)
    bounded = [side for side in (one, other) if side.memory_limit_bytes is not None]
    memory = min(bounded, key=lambda side: side.memory_limit_bytes or 0, default=one)
    return ContainerLimits(cpus, memory.memory_limit_bytes, memory.memory_used_bytes)


def _cpus(quota: int | None, period: int | None) -> float | None:
    return quota / period if quota and period and quota > 0 else None


def _stat(path: Path, name: str) -> int:
    for line in _read_text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return _to_int(value) or 0
    return 0


def _read_text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _to_int(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def usable_cpus(limits: ContainerLimits) -> int:
    """Return how many CPUs this process may keep busy, at least one."""
    available = len(os.sched_getaffinity(0))
    return max(1, min(available, round(limits.cpus) if limits.cpus else available))


def memory_bytes(limits: ContainerLimits) -> tuple[int, int]:
    """Return total and available memory of the machine or of the container, whichever is less."""
    machine = psutil.virtual_memory()
    if limits.memory_limit_bytes is None or limits.memory_limit_bytes >= machine.total:
        return machine.total, machine.available
    total = limits.memory_limit_bytes
    free = max(0, total - (limits.memory_used_bytes or 0))
    return total, min(free, machine.available)
