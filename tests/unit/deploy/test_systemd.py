"""What services tell systemd, and the units that count on it."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from mnemos import systemd
from mnemos.cortex.settings import CortexSettings
from mnemos.genome.settings import GenomeSettings
from neuron.config import Settings
from neuron.errors import CortexUnavailableError
from neuron.models.action import HeartbeatAnswer
from neuron.models.worker import Heartbeat, SystemResources
from neuron.services.heartbeat import HeartbeatService
from neuron.worker import EXIT_CONFIGURATION

UNITS = ("neuron-worker", "mnemos-cortex", "mnemos-genome")
KNOWN: dict[str, type[BaseSettings]] = {
    "NEURON": Settings,
    "CORTEX": CortexSettings,
    "GENOME": GenomeSettings,
}


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield manager


def unit(root: Path, name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((root / "deploy" / "systemd" / f"{name}.service").read_text())
    return parser


def test_what_is_said_arrives(told: socket.socket) -> None:
    systemd.ready()
    systemd.alive()
    systemd.stopping()
    assert [told.recv(99) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


class Answering:
    """A CORTEX that hears every second heartbeat; and a worker without jobs."""

    def __init__(self) -> None:
        self.heard = 0
        self.asked = asyncio.Event()

    async def send_heartbeat(self, heartbeat: Heartbeat, **_: object) -> HeartbeatAnswer:
        self.heard += 1
        if self.heard % 2:
            raise CortexUnavailableError("CORTEX is away.")
        if self.heard == 4:
            self.asked.set()
        return HeartbeatAnswer(acknowledged=True)

    async def get_current_resources(self) -> SystemResources:
        return SystemResources(
            cpu_count=1,
            cpu_percent=0,
            memory_total_mb=1,
            memory_available_mb=1,
            disk_total_gb=1,
            disk_available_gb=1,
        )

    def get_active_job_ids(self) -> list[str]:
        return []


async def test_the_watchdog_is_fed_by_heartbeats_that_arrive(told: socket.socket) -> None:
    cortex = Answering()
    service = HeartbeatService(
        "wrk_1", cortex, cortex, cortex, interval_seconds=0.001, on_success=systemd.alive
    )
    async with asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(service.run())
        await cortex.asked.wait()
        await asyncio.to_thread(told.recv, 99)
        await asyncio.to_thread(told.recv, 99)
        beating.cancel()
    told.setblocking(False)
    fed = 2
    with contextlib.suppress(BlockingIOError):
        while told.recv(99):
            fed += 1
    assert fed <= cortex.heard // 2


def test_nobody_is_told_where_nobody_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.ready()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.ready()  # a service does not fail because its watcher has


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_names_settings_that_are_there(root: Path, name: str) -> None:
    lines = (root / "deploy" / "systemd" / f"{name}.service").read_text().splitlines()
    given = [line.split("=")[1] for line in lines if line.startswith("Environment=")]
    assert given
    for variable in given:
        prefix, _, field = variable.partition("_")
        assert field.lower() in KNOWN[prefix].model_fields


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_does_not_repeat_what_cannot_work(root: Path, name: str) -> None:
    service = unit(root, name)["Service"]
    assert service["Type"] == "notify"
    assert service["RestartPreventExitStatus"] == str(EXIT_CONFIGURATION)


def test_the_worker_has_time_to_drain(root: Path) -> None:
    patience = float(unit(root, "neuron-worker")["Service"]["TimeoutStopSec"])
    assert patience > Settings.model_fields["shutdown_timeout"].default
