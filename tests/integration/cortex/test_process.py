"""`python -m mnemos.cortex` as a process: killed, refused, starved of disk."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from cortex_tools import eventually
from ports import lasting_ports

BODY = {
    "model": {"family": "tiny", "version": "1", "runtime": "transformers"},
    "input": {"prompt": "Hello"},
}
Listener = Callable[[], int]


@pytest.fixture
def free_port() -> Listener:
    return lambda: lasting_ports(1)[0]


@asynccontextmanager
async def cortex_process(data: Path, http_port: int, grpc_port: int) -> AsyncIterator[Process]:
    """Start CORTEX; it never outlives its test."""
    environment = {
        **os.environ,
        "CORTEX_DATA_DIR": str(data),
        "CORTEX_HTTP_PORT": str(http_port),
        "CORTEX_GRPC_PORT": str(grpc_port),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mnemos.cortex", env=environment, stderr=PIPE, stdout=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ready(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get("/ready")).status_code == 200
    except httpx2.TransportError:
        return False


def client_of(port: int) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10)


async def test_nothing_answered_is_lost_by_kill_9(tmp_path: Path, free_port: Listener) -> None:
    port, grpc_port = free_port(), free_port()
    answered: list[str] = []

    async def submit(client: httpx2.AsyncClient, enough: asyncio.Event) -> None:
        try:
            while True:
                answer = await client.post("/api/v1/jobs", json=BODY)
                answered.append(answer.json()["job_id"])
                if len(answered) >= 60:
                    enough.set()
        except httpx2.TransportError:
            return

    async with cortex_process(tmp_path, port, grpc_port) as process, client_of(port) as client:
        await eventually(lambda: ready(client), "CORTEX is ready", 30)
        enough = asyncio.Event()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(submit(client, enough))
            await enough.wait()
            process.kill()
    assert len(answered) >= 60
    async with cortex_process(tmp_path, port, grpc_port), client_of(port) as client:
        await eventually(lambda: ready(client), "CORTEX is ready again", 30)
        page = (await client.get("/api/v1/jobs", params={"limit": 500})).json()
        assert set(answered) <= {job["job_id"] for job in page["jobs"]}
        stats = (await client.get("/api/v1/stats")).json()
        assert stats["jobs"]["pending"] == len(page["jobs"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_status_0_even_with_open_streams(
    tmp_path: Path, free_port: Listener, number: signal.Signals
) -> None:
    port, grpc_port = free_port(), free_port()
    async with cortex_process(tmp_path, port, grpc_port) as process, client_of(port) as client:
        await eventually(lambda: ready(client), "CORTEX is ready", 30)
        job = (await client.post("/api/v1/jobs", json=BODY)).json()
        path = f"/api/v1/jobs/{job['job_id']}/stream"
        async with asyncio.timeout(10), client.stream("GET", path) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            process.send_signal(number)
            assert [line async for line in lines]
            assert await process.wait() == 0


async def test_a_busy_port_is_named_with_its_setting(tmp_path: Path, free_port: Listener) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = int(taken.getsockname()[1])
        for ports, setting in (
            ((busy, free_port()), "CORTEX_HTTP_PORT"),
            ((free_port(), busy), "CORTEX_GRPC_PORT"),
        ):
            async with cortex_process(tmp_path, *ports) as process:
                _, errors = await process.communicate()
            assert process.returncode == 1
            last = errors.decode().strip().splitlines()[-1]
            assert last.startswith(f"cortex: Cannot listen on 127.0.0.1:{busy} (")
            assert setting in last
            assert b"Traceback" not in errors


async def test_a_second_process_on_the_same_data_is_refused(
    tmp_path: Path, free_port: Listener
) -> None:
    port, grpc_port = free_port(), free_port()
    async with cortex_process(tmp_path, port, grpc_port), client_of(port) as client:
        await eventually(lambda: ready(client), "CORTEX is ready", 30)
        async with cortex_process(tmp_path, free_port(), free_port()) as second:
            _, errors = await second.communicate()
        assert second.returncode == 1
        assert b"Another CORTEX already uses the data directory" in errors
        assert await ready(client)


async def test_a_bad_setting_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORTEX_LEASE_SECONDS", "soon")
    async with cortex_process(tmp_path, 0, 0) as process:
        _, errors = await process.communicate()
    assert process.returncode == 78
    assert errors.decode().startswith("cortex: CORTEX_LEASE_SECONDS: ")


async def test_a_disk_without_room_is_said_and_survived(
    tmp_path: Path, free_port: Listener
) -> None:
    port, grpc_port = free_port(), free_port()
    async with cortex_process(tmp_path, port, grpc_port) as process, client_of(port) as client:
        await eventually(lambda: ready(client), "CORTEX is ready", 30)
        kept = (await client.post("/api/v1/jobs", json=BODY)).json()["job_id"]
        unlimited = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, unlimited[1]))
        refused = await client.post("/api/v1/jobs", json=BODY)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "unavailable"
        assert "database" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) > 0
        unready = await client.get("/ready")
        assert (unready.status_code, unready.json()["ready"]) == (503, False)
        assert "database" in unready.json()["reasons"][0]
        assert (await client.get("/health")).status_code == 200
        assert (await client.get(f"/api/v1/jobs/{kept}")).status_code == 200
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
        await eventually(lambda: ready(client), "CORTEX can write again")
        assert (await client.post("/api/v1/jobs", json=BODY)).status_code == 201
