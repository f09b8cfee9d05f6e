"""The API without a worker, and the port that somebody else has."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys

import httpx2
import pytest
from fastapi import FastAPI

import neuron.main
from neuron.api.server import ApiServer
from neuron.errors import ConfigurationError
from neuron.main import create_app


def client(app: FastAPI) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test")


async def test_without_a_worker_the_process_is_healthy_and_not_ready() -> None:
    async with client(create_app()) as api:
        health = await api.get("/health")
        ready = await api.get("/ready")
        metrics = await api.get("/metrics")
        info = await api.get("/info")

    assert health.json()["status"] == "healthy"
    assert health.json()["service"] == "neuron"
    assert ready.status_code == 503
    assert ready.json() == {
        "ready": False,
        "reasons": ["no worker runs in this process"],
        "warnings": [],
    }
    assert metrics.status_code == info.status_code == 200


def test_uvicorn_finds_the_app_by_its_name() -> None:
    assert isinstance(neuron.main.app, FastAPI)
    with pytest.raises(AttributeError):
        neuron.main.nothing  # noqa: B018 - the lookup is the test


def test_a_taken_port_is_a_configuration_error_that_names_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = ApiServer(create_app(), "127.0.0.1", other.getsockname()[1])
        with pytest.raises(ConfigurationError, match="NEURON_API_PORT"):
            server.bind()


async def test_a_server_stops_when_asked_and_twice() -> None:
    server = ApiServer(create_app(), "127.0.0.1", 0)
    async with asyncio.TaskGroup() as tasks:
        await server.start(tasks)
        async with httpx2.AsyncClient() as api:
            answer = await api.get(f"http://127.0.0.1:{server.port}/health")
        await server.stop()
        await server.stop()

    assert answer.status_code == 200


def test_importing_the_worker_loads_no_engine() -> None:
    program = (
        "import sys, neuron.worker\n"
        "print([m for m in ('torch', 'transformers', 'vllm', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_bad_settings_end_the_command_with_78_and_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "neuron.worker"],
        env=os.environ | {"NEURON_MAX_CONCURENT_JOBS": "4"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 78
    assert done.stderr == (
        "neuron: NEURON_MAX_CONCURENT_JOBS is not a setting of NEURON;"
        " did you mean NEURON_MAX_CONCURRENT_JOBS?\n"
    )
