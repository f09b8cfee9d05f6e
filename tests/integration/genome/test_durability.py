"""What GENOME answered is on the disk: kill -9, restart, a foreign file, a port that is taken."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from ports import lasting_ports

from mnemos.genome.client import GenomeClient
from mnemos.genome.errors import GenomeUnavailableError
from mnemos.genome.models import ModelSpec
from mnemos.genome.opening import open_store
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings, unknown_names
from mnemos.http import PortUnavailableError

MakeBody = Callable[..., dict[str, Any]]
Start = Callable[..., "subprocess.Popen[bytes]"]
START_SECONDS = 30.0


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    return lasting_ports(1)[0]


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Start]:
    """Start `python -m mnemos.genome` on one folder and port; nothing outlives the test."""
    with ExitStack() as stack:

        def begin(**variables: str) -> subprocess.Popen[bytes]:
            own = {"GENOME_DATA_DIR": str(tmp_path / "data"), "GENOME_HTTP_PORT": str(port)}
            process = subprocess.Popen(
                [sys.executable, "-m", "mnemos.genome"],
                env=os.environ | own | variables,
                stderr=subprocess.PIPE,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield begin


def wait_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False).is_success:
                return
        except httpx2.HTTPError:
            time.sleep(0.05)
    pytest.fail("GENOME did not become ready")


def test_killed_and_started_again_it_knows_every_model(
    start: Start, port: int, make_body: MakeBody
) -> None:
    process = start()
    wait_ready(process, port)
    url = f"http://127.0.0.1:{port}/api/v1/models"
    for number in range(5):
        answer = httpx2.post(url, json=make_body(version=str(number)), trust_env=False)
        assert answer.status_code == 201
    process.kill()
    process.wait(10)
    wait_ready(start(), port)
    models = httpx2.get(url, trust_env=False).json()["models"]
    assert [model["version"] for model in models] == ["4", "3", "2", "1", "0"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_exits_with_0(start: Start, port: int, number: signal.Signals) -> None:
    process = start()
    wait_ready(process, port)
    process.send_signal(number)
    assert process.wait(15) == 0


@pytest.mark.parametrize(
    ("variables", "status", "sentence"),
    [
        ({"GENOME_HTPP_PORT": "1"}, 78, "Unknown setting GENOME_HTPP_PORT."),
        ({"GENOME_HTTP_PORT": "x"}, 78, "GENOME_HTTP_PORT: "),
        ({"GENOME_DATA_DIR": "/dev/null/x"}, 1, "cannot use its data in /dev/null/x/genome.sqlite"),
    ],
)
def test_what_stops_it_from_starting_is_one_sentence(
    start: Start, variables: dict[str, str], status: int, sentence: str
) -> None:
    process = start(**variables)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == status
    assert sentence in stderr.decode()
    assert "Traceback" not in stderr.decode()


async def test_a_taken_port_is_named_and_nothing_stays_open(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        with pytest.raises(PortUnavailableError, match=f"127.0.0.1:{taken}"):
            async with GenomeServer(GenomeSettings(data_dir=tmp_path, http_port=taken)):
                pytest.fail("it started")
    settings = GenomeSettings(data_dir=tmp_path, http_port=0)
    async with GenomeServer(settings) as server, GenomeClient(server.url) as client:
        await client.check_health()


async def test_what_fails_inside_comes_out_and_the_server_is_gone(tmp_path: Path) -> None:
    server = GenomeServer(GenomeSettings(data_dir=tmp_path, http_port=0))

    async def fail_inside() -> None:
        async with server:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_inside()
    async with GenomeClient(server.url) as client:
        with pytest.raises(GenomeUnavailableError):
            await client.check_health()


async def test_cancelling_what_runs_inside_closes_everything(tmp_path: Path) -> None:
    server = GenomeServer(GenomeSettings(data_dir=tmp_path, http_port=0))
    entered = asyncio.Event()

    async def run() -> None:
        async with server:
            entered.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
        await entered.wait()
        task.cancel()
    assert task.cancelled()
    async with GenomeClient(server.url) as client:
        with pytest.raises(GenomeUnavailableError):
            await client.check_health()


async def test_two_that_start_at_once_on_new_data_share_it(
    tmp_path: Path, make_body: MakeBody
) -> None:
    settings = GenomeSettings(data_dir=tmp_path, http_port=0)
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        entering = [
            group.create_task(stack.enter_async_context(open_store(settings))) for _ in range(2)
        ]
        first, second = [await task for task in entering]
        await first.register(ModelSpec.model_validate(make_body()))
        found = await second.get("tiny")
        assert found.document is not None
        assert found.document["version"] == "1"
    async with GenomeServer(settings) as server, GenomeClient(server.url) as client:
        assert (await client.get("tiny")).version == "1"


async def test_data_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    settings = GenomeSettings(data_dir=tmp_path, http_port=0)
    async with GenomeServer(settings):
        pass
    with closing(sqlite3.connect(tmp_path / "genome.sqlite")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    with pytest.raises(GenomeUnavailableError, match="another version of GENOME"):
        async with GenomeServer(settings):
            pytest.fail("it started")


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "genome.sqlite").write_bytes(b"this is not a database" * 100)
    with pytest.raises(GenomeUnavailableError, match="file is not a database"):
        async with GenomeServer(GenomeSettings(data_dir=tmp_path, http_port=0)):
            pytest.fail("it started")


async def test_damaged_data_is_an_answer_and_not_a_crash(
    tmp_path: Path, make_body: MakeBody
) -> None:
    settings = GenomeSettings(data_dir=tmp_path, http_port=0)
    async with GenomeServer(settings) as server, GenomeClient(server.url) as client:
        await client.register(make_body())
        with closing(sqlite3.connect(tmp_path / "genome.sqlite")) as database:
            database.execute("ALTER TABLE models RENAME TO hidden")
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:
            answer = await http.get("/api/v1/models/tiny")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "unavailable"
        assert answer.headers["retry-after"]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may grow any more: the nearest to a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_refuses_writes_until_there_is_room(
    tmp_path: Path, make_body: MakeBody
) -> None:
    settings = GenomeSettings(data_dir=tmp_path, http_port=0)
    async with GenomeServer(settings) as server, GenomeClient(server.url) as client:
        await client.register(make_body())
        with full_disk():
            with pytest.raises(GenomeUnavailableError, match="cannot use its data"):
                await client.register(make_body(version="2"))
            with pytest.raises(GenomeUnavailableError, match="cannot use its data"):
                await client.check_health()
            assert (await client.get("tiny")).version == "1"
        await client.check_health()
        assert (await client.register(make_body(version="2"))).created


def test_only_genomes_own_names_are_looked_at() -> None:
    assert unknown_names(["GENOME_HTTP_PORT", "GENOME_X", "PATH", "NEURON_GENOME_HTTP_URL"]) == [
        "GENOME_X"
    ]
