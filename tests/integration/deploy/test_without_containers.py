"""The system of the compose file's variables and commands, without containers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from compose_file import environment, example, services
from ports import lasting_ports
from postgres_tools import EMPTY, Postgres, any_server

PATIENCE_SECONDS = 60.0
WORKER = ["python3", "-m", "neuron.worker"]


class System:
    """The services' addresses and variables, moved to free ports of this machine."""

    def __init__(self, folder: Path, database_url: str, s3: Any) -> None:
        self.folder = folder
        self.cortex, self.grpc, self.genome, self.worker = lasting_ports(4)
        keys = {"MINIO_ROOT_USER": s3.access_key, "MINIO_ROOT_PASSWORD": s3.secret_key}
        self._variables = example() | keys
        self._moved = {
            "engram:9000": s3.endpoint,
            "genome:8081": f"127.0.0.1:{self.genome}",
            "cortex:9090": f"127.0.0.1:{self.grpc}",
        }
        self._own = {
            "CORTEX_DATABASE_URL": database_url,
            "CORTEX_HTTP_PORT": str(self.cortex),
            "CORTEX_GRPC_PORT": str(self.grpc),
            "GENOME_DATABASE_URL": database_url,
            "GENOME_HTTP_PORT": str(self.genome),
            "NEURON_API_PORT": str(self.worker),
            "NEURON_MODEL_CACHE_DIR": str(folder / "models"),
        }

    def variables(self, service: str) -> dict[str, str]:
        """A service's environment."""
        found = environment(service, self._variables)
        for name, value in found.items():
            for old, new in self._moved.items():
                found[name] = found[name].replace(old, new) if old in value else found[name]
        prefix = next(iter(found)).partition("_")[0]
        own = {name: value for name, value in self._own.items() if name.startswith(prefix)}
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), **found, **own}

    def run(self, service: str) -> None:
        """Run a one-shot to its end."""
        words = _words(services()[service]["command"])
        subprocess.run(words, env=self.variables(service), check=True, timeout=PATIENCE_SECONDS)

    @contextmanager
    def running(self, service: str, words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        """Lend a service's process; it is stopped kindly, and must end by itself with 0."""
        with (self.folder / f"{service}.log").open("wb") as log:
            process = subprocess.Popen(
                _words(words), env=self.variables(service), stdout=log, stderr=log
            )
            try:
                yield process
                process.terminate()
                assert process.wait(PATIENCE_SECONDS) == 0, self.log(service)
            finally:
                process.kill()
                process.wait(PATIENCE_SECONDS)

    def log(self, service: str) -> str:
        """What it has said."""
        return (self.folder / f"{service}.log").read_text()


def _words(command: list[str]) -> list[str]:
    assert command[0] == "python3"
    return [sys.executable, *command[1:]]


def _answer(url: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
    with httpx2.Client(trust_env=False) as client:
        return client.get(url, headers=dict(headers or {}))


def _wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{url}: it ended with {process.returncode}"
        try:
            if _answer(url).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail(f"{url} is not ready")


@pytest.fixture
def system(tmp_path: Path, s3_server: Any) -> Iterator[System]:
    with any_server() as url, Postgres(url, template=None).database(template=EMPTY) as database:
        yield System(tmp_path, database, s3_server)


def test_the_users_verification_commands_answer(system: System) -> None:
    for one_shot in ("engram-buckets", "migrate-cortex", "migrate-genome"):
        system.run(one_shot)
    with ExitStack() as stack:
        genome = stack.enter_context(system.running("genome", services()["genome"]["command"]))
        _wait_ready(f"http://127.0.0.1:{system.genome}/health/ready", genome)
        command = ["python3", "-m", "mnemos.cortex"]
        cortex = stack.enter_context(system.running("cortex", command))
        _wait_ready(f"http://127.0.0.1:{system.cortex}/ready", cortex)
        worker = stack.enter_context(system.running("neuron-worker-cpu", WORKER))
        own = f"http://127.0.0.1:{system.worker}"
        _wait_ready(f"{own}/ready", worker)
        assert _answer(f"{own}/health").json()["status"] == "healthy"
        assert "neuron_worker_ready 1.0" in _answer(f"{own}/metrics").text
        assert "worker_ready" in system.log("neuron-worker-cpu")
        listing = f"http://127.0.0.1:{system.cortex}/api/v1/workers"
        assert _answer(listing).status_code == 401
        key = system.variables("cortex")["CORTEX_ADMIN_KEY"]
        (found,) = _answer(listing, {"authorization": f"Bearer {key}"}).json()["workers"]
        assert found["tags"] == {"region": "us-west", "zone": "a"}
