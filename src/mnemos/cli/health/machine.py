"""The machine: Python, memory, disk, GPUs, packages, ports."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import shutil
import signal
import socket
import sys
from pathlib import Path

from ..output import size
from .check import Finding, Verdict, in_child

IMPORT_SECONDS = 120.0
LITTLE_DISK = 5 * 10**9
NO_DISK = 10**9
LITTLE_MEMORY = 2 * 10**9
OLDEST_PYTHON = (3, 11)


def check_python() -> Finding:
    """Python and system."""
    detail = f"Python {platform.python_version()} on {platform.platform()}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("python", Verdict.FAIL, detail, "install Python 3.11 or newer")
    if sys.platform != "linux":
        fix = "run workers on Linux: elsewhere they may outlive a killed parent"
        return Finding("python", Verdict.WARN, detail, fix)
    return Finding("python", Verdict.OK, f"{detail}, {os.cpu_count()} CPUs")


def check_memory() -> Finding:
    """RAM that is free now."""
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{size(memory.available)} of {size(memory.total)} RAM are free"
    if memory.available < LITTLE_MEMORY:
        return Finding("memory", Verdict.WARN, detail, "close something: small models need 2 GB")
    return Finding("memory", Verdict.OK, detail)


def check_disk(data_dir: Path) -> Finding:
    """Space where the data folder is, or will be."""
    existing = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{size(free)} are free for {data_dir}"
    fix = "free some space, or choose another --data-dir"
    if not os.access(existing, os.W_OK):
        return Finding("disk", Verdict.FAIL, f"{existing} cannot be written", "choose --data-dir")
    if free < NO_DISK:
        return Finding("disk", Verdict.FAIL, detail, fix)
    verdict = Verdict.WARN if free < LITTLE_DISK else Verdict.OK
    return Finding("disk", verdict, detail, fix if verdict is Verdict.WARN else "")


def check_echo() -> list[Finding]:
    """Whether workers started here would offer the runtime that runs no model."""
    if "echo" not in os.environ.get("NEURON_SUPPORTED_RUNTIMES", "").lower():
        return []
    detail = "NEURON_SUPPORTED_RUNTIMES names echo, which is for measuring the path alone"
    return [Finding("echo", Verdict.WARN, detail, "take it out unless you measure")]


def check_gpu() -> Finding:
    """GPUs and their driver, as NVML tells them."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
            fix = "reinstall the NVIDIA driver, or give the container access to the GPU"
            return Finding("gpu", Verdict.FAIL, f"There is a GPU, but NVML says: {error}", fix)
        return Finding("gpu", Verdict.OK, "no NVIDIA GPU: models run on the CPU")
    try:
        names = [_gpu_name(index) for index in range(pynvml.nvmlDeviceGetCount())]
        driver = pynvml.nvmlSystemGetDriverVersion()
        return Finding("gpu", Verdict.OK, f"driver {driver}: {', '.join(names) or 'no device'}")
    except pynvml.NVMLError as error:
        return Finding("gpu", Verdict.FAIL, f"NVML says: {error}", "restart the machine's driver")
    finally:
        pynvml.nvmlShutdown()


def _gpu_name(index: int) -> str:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return f"{name} ({size(memory.free)} of {size(memory.total)} free)"


async def check_package(package: str, *, code: str, needed_for: str, install: str) -> Finding:
    """Import a package in a child process and say its version."""
    if importlib.util.find_spec(package) is None:
        detail = f"not installed; {needed_for}"
        optional = not install
        return Finding(package, Verdict.OK if optional else Verdict.WARN, detail, install)
    outcome = await in_child(code, IMPORT_SECONDS)
    if outcome.status == 0:
        return Finding(package, Verdict.OK, outcome.last_line)
    fix = install or f"reinstall it: {sys.executable} -m pip install --force-reinstall {package}"
    if outcome.status is None:
        detail = f"importing it took longer than {IMPORT_SECONDS:.0f} s"
    elif outcome.status < 0:
        name = signal.Signals(-outcome.status).name
        detail = f"importing it killed the process ({name}): built for another CPU or driver?"
    else:
        detail = f"importing it failed: {outcome.last_line}"
    return Finding(package, Verdict.FAIL, detail, fix)


async def check_packages() -> list[Finding]:
    """What the runtimes need."""
    extra = f"{sys.executable} -m pip install 'mnemos-neuron[transformers]'"
    torch = (
        "import torch; cuda = torch.cuda.is_available(); "
        "print(torch.__version__, 'with CUDA' if cuda else 'without CUDA')"
    )
    plain = "import {0}; print({0}.__version__)"
    async with asyncio.TaskGroup() as tasks:
        checks = [
            tasks.create_task(check_package(name, code=code, needed_for=why, install=install))
            for name, code, why, install in (
                ("torch", torch, "the transformers runtime needs it", extra),
                (
                    "transformers",
                    plain.format("transformers"),
                    "the transformers runtime needs it",
                    extra,
                ),
                ("vllm", plain.format("vllm"), "only the vllm runtime needs it", ""),
            )
        ]
    return [check.result() for check in checks]


def check_port(port: int, flag: str, served: bool) -> Finding:
    """Whether `mnemos up` could listen on a port; one that serves us already is fine."""
    name = f"port {port}"
    if served:
        return Finding(name, Verdict.OK, "in use by the platform")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            fix = f"end what uses it, or start with: mnemos up {flag} PORT"
            return Finding(name, Verdict.WARN, f"cannot be used: {error.strerror}", fix)
    return Finding(name, Verdict.OK, "free")
