"""The machine's share that is ours: cgroup limits of both versions, and the monitor on top."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from neuron.config import Settings
from neuron.services.resource_monitor import ResourceMonitor
from neuron.utils.gpu import detect_gpus, get_gpu_stats
from neuron.utils.system import (
    ContainerLimits,
    memory_bytes,
    read_container_limits,
    usable_cpus,
)

MIB = 1024 * 1024


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_cgroup_2_limits_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "cgroup.controllers": "cpu memory",
            "cpu.max": "150000 100000\n",
            "memory.max": f"{512 * MIB}\n",
            "memory.current": f"{300 * MIB}\n",
            "memory.stat": f"anon 1\ninactive_file {100 * MIB}\n",
        },
    )

    assert read_container_limits(tmp_path) == ContainerLimits(1.5, 512 * MIB, 200 * MIB)


def test_cgroup_2_without_limits(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"cgroup.controllers": "cpu memory", "cpu.max": "max 100000", "memory.max": "max"},
    )

    assert read_container_limits(tmp_path) == ContainerLimits()


def test_cgroup_1_limits_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "cpu/cpu.cfs_quota_us": "200000",
            "cpu/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": str(256 * MIB),
            "memory/memory.usage_in_bytes": str(200 * MIB),
            "memory/memory.stat": f"total_inactive_file {50 * MIB}",
        },
    )

    assert read_container_limits(tmp_path) == ContainerLimits(2.0, 256 * MIB, 150 * MIB)


def test_cgroup_1_without_limits(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"cpu/cpu.cfs_quota_us": "-1", "memory/memory.limit_in_bytes": str((1 << 63) - 4096)},
    )

    assert read_container_limits(tmp_path) == ContainerLimits()


def test_a_container_is_smaller_than_its_machine() -> None:
    limits = ContainerLimits(cpus=1.0, memory_limit_bytes=256 * MIB, memory_used_bytes=100 * MIB)

    assert usable_cpus(limits) == 1
    assert memory_bytes(limits) == (256 * MIB, 156 * MIB)
    assert usable_cpus(ContainerLimits()) == len(os.sched_getaffinity(0))
    assert memory_bytes(ContainerLimits())[0] == psutil.virtual_memory().total


async def test_a_snapshot_is_sound_although_the_cache_does_not_exist_yet(tmp_path: Path) -> None:
    monitor = ResourceMonitor(Settings(model_cache_dir=tmp_path / "not" / "there"))
    await monitor.start()

    resources = await monitor.get_current_resources()

    assert resources.cpu_count >= 1
    assert 0 < resources.memory_available_mb <= resources.memory_total_mb
    assert 0 < resources.disk_available_gb <= resources.disk_total_gb
    assert len(resources.gpus) == len(await get_gpu_stats(await detect_gpus()))
    assert monitor.latest is resources


async def test_a_disk_that_cannot_be_asked_hides_no_other_figure(tmp_path: Path) -> None:
    unaskable = tmp_path / ("x" * 300)
    monitor = ResourceMonitor(Settings(model_cache_dir=unaskable, minio_endpoint="file:///x"))

    resources = await monitor.get_current_resources()

    assert resources.disk_available_gb == 0
    assert resources.memory_total_mb > 0
