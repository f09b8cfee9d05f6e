"""`mnemos up` as a process: ready, refused, stopped, killed; its worker never outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_platform import until

from mnemos.cli.http import CortexClient

PORTS = ("--http-port", "--grpc-port", "--genome-port", "--worker-port")


async def spawn(data_dir: Path, *words: str, ports: str = "0") -> Process:
    free = [word for flag in PORTS for word in (flag, ports)]
    command = [sys.executable, "-m", "mnemos.cli", "up", "--data-dir", str(data_dir), "--quiet"]
    return await asyncio.create_subprocess_exec(*command, *free, *words, stdout=PIPE, stderr=PIPE)


@asynccontextmanager
async def platform(data_dir: Path, *words: str) -> AsyncIterator[tuple[Process, dict[str, Any]]]:
    process = await spawn(data_dir, *words)
    state = data_dir / "up.json"
    try:
        await until(lambda: state.exists() or process.returncode is not None, 30)
        assert process.returncode is None, (await process.communicate())[1].decode()
        yield process, json.loads(state.read_text())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def worker_of(pid: int) -> psutil.Process | None:
    """The worker that `up` has started, once it is one."""
    for child in psutil.Process(pid).children():
        if "neuron.worker" in child.cmdline():
            return child
    return None


async def registered(url: str, count: int) -> list[dict[str, Any]]:
    """The workers, once there are that many; nothing announces one to an HTTP client."""
    found: list[dict[str, Any]] = []
    async with CortexClient(url) as cortex, asyncio.timeout(30):
        while len(found) < count:
            await asyncio.sleep(0.05)
            found = await cortex.workers()
    return found


async def heard_since(url: str, moment: datetime) -> list[dict[str, Any]]:
    """The workers, once one of them has said how it is after `moment`."""
    async with CortexClient(url) as cortex, asyncio.timeout(30):
        while True:
            found = await cortex.workers()
            if any(datetime.fromisoformat(row["last_heartbeat"]) > moment for row in found):
                return found
            await asyncio.sleep(0.05)


async def test_up_serves_and_sigterm_ends_it_with_0(tmp_path: Path) -> None:
    async with platform(tmp_path, "--no-worker") as (process, state):
        assert state["pid"] == process.pid
        async with CortexClient(state["cortex_url"]) as cortex:
            assert await cortex.workers() == []
        process.send_signal(signal.SIGTERM)
        stdout, _ = await process.communicate()
        assert process.returncode == 0
        assert state["cortex_url"] in stdout.decode()
        assert str(tmp_path) in stdout.decode()
    assert not (tmp_path / "up.json").exists()


async def test_a_data_folder_belongs_to_one_platform(tmp_path: Path) -> None:
    async with platform(tmp_path, "--no-worker") as (process, _):
        second = await spawn(tmp_path, "--no-worker")
        _, stderr = await second.communicate()
        assert second.returncode == 6
        assert f"Another mnemos up (process {process.pid}) already uses" in stderr.decode()
    assert (await spawn_and_end(tmp_path)) == 0, "a killed platform leaves no lock behind"


async def spawn_and_end(data_dir: Path) -> int:
    (data_dir / "up.json").unlink(missing_ok=True)
    async with platform(data_dir, "--no-worker") as (process, _):
        process.send_signal(signal.SIGINT)
        await process.communicate()
        return process.returncode or 0


@pytest.mark.parametrize("flag", PORTS)
async def test_a_busy_port_is_named_with_its_flag(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await spawn(tmp_path, flag, str(port))
        _, stderr = await process.communicate()
    assert process.returncode == 1
    assert str(port) in stderr.decode()
    assert flag in stderr.decode()
    assert "Traceback" not in stderr.decode()


async def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = await spawn(tmp_path / "file" / "below", "--no-worker")
    _, stderr = await process.communicate()
    assert process.returncode == 1
    assert "Not a directory" in stderr.decode()
    assert "Traceback" not in stderr.decode()


async def test_a_worker_registers_comes_back_after_kill_and_drains_on_sigterm(
    tmp_path: Path,
) -> None:
    async with platform(tmp_path) as (process, state):
        (first,) = await registered(state["cortex_url"], 1)
        worker = worker_of(process.pid)
        assert worker is not None
        worker.kill()
        worker.wait(10)
        found = await heard_since(state["cortex_url"], datetime.now(UTC))
        # Under its old id, or under a new one if it died before it could write the old one down.
        assert first["worker_id"] in {row["worker_id"] for row in found}
        successor = worker_of(process.pid)
        assert successor is not None
        assert successor.pid != worker.pid
        process.send_signal(signal.SIGTERM)
        _, stderr = await process.communicate()
        assert process.returncode == 0
        assert not successor.is_running()
        assert "worker-1 died (SIGKILL); starting it again." in stderr.decode()


async def test_no_worker_outlives_a_killed_platform(tmp_path: Path) -> None:
    async with platform(tmp_path) as (process, state):
        await registered(state["cortex_url"], 1)
        worker = worker_of(process.pid)
        assert worker is not None
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: not worker.is_running(), 20)
