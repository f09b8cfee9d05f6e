"""A SeaweedFS with the model in it: a real S3 store that gives all it can."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from mnemos.engram.errors import EngramError
from mnemos.engram.store import ObjectStore

from .keys import ACCESS_KEY, SECRET_KEY
from .model import BUCKET

_START_SECONDS = 60.0
_UPLOADS = 4


@contextlib.contextmanager
def running(folder: Path, root: Path) -> Iterator[str]:
    """Lend the endpoint of a server that keeps the files of `root` in `folder`."""
    ports = _free_ports(8)
    endpoint = f"http://127.0.0.1:{ports[0]}"
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            _command(folder, ports), stdout=log, stderr=subprocess.STDOUT, cwd=folder
        )
        try:
            asyncio.run(_fill(endpoint, root))
            yield endpoint
        finally:
            process.kill()
            process.wait(30)


def _command(folder: Path, ports: list[int]) -> list[str]:
    identity = {
        "name": "bench",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
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
        "-master.volumeSizeLimitMB=1024",
        f"-volume.port={volume}",
        f"-volume.port.grpc={volume_grpc}",
        "-volume.max=100",
        "-volume.minFreeSpace=1MiB",
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
    ]


async def _fill(endpoint: str, root: Path) -> None:
    store = ObjectStore.from_url(
        "s3://", endpoint=endpoint, access_key=ACCESS_KEY, secret_key=SecretStr(SECRET_KEY)
    )
    await _ready(store)
    slots = asyncio.Semaphore(_UPLOADS)

    async def upload(path: Path) -> None:
        async with slots:
            key = path.relative_to(root / BUCKET).as_posix()
            await store.upload_file(BUCKET, key, path)

    files = [path for path in (root / BUCKET).rglob("*") if path.is_file()]
    async with asyncio.TaskGroup() as group:
        for path in files:
            group.create_task(upload(path))


async def _ready(store: ObjectStore) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            await store.ensure_bucket(BUCKET)
            await store.put_bytes(BUCKET, "ready", b"1")
        except EngramError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            await store.delete(BUCKET, "ready")
            return


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
