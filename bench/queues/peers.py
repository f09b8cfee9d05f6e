"""Running the peers, each by its own script, in an environment of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .figures import JOBS, PICKUPS, SINGLES, SLOTS

PEERS = {"oban-py": "peer_oban.py", "pgqueuer": "peer_pgqueuer.py"}
REQUIREMENTS = ("oban>=0.7,<0.8", "pgqueuer>=1.6,<1.7", "asyncpg>=0.30", "uvloop>=0.22")
OLDEST_PYTHON = (3, 12)
_HERE = Path(__file__).parent
_VENV = _HERE.parents[1] / ".venv-peers"
_READY = _VENV / ".ready"


def measure(name: str, dsn: str) -> dict[str, Any]:
    """Run one round of a peer on an empty database; return what Figures.add() takes."""
    told: dict[str, Any] = {}
    _run(name, "install", dsn, 0)
    told |= _run(name, "single", dsn, SINGLES)
    _run(name, "fill", dsn, JOBS - SINGLES)
    with _working(name, dsn):
        told |= _run(name, "drain", dsn, JOBS)
        told |= _run(name, "pickup", dsn, PICKUPS)
    return told


def prepare() -> None:
    """Make the environment, once."""
    if _READY.exists():
        return
    subprocess.run([_newer_python(), "-m", "venv", "--clear", str(_VENV)], check=True)
    pip = [
        str(_python()),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, *REQUIREMENTS], check=True)
    _READY.touch()


def _newer_python() -> str:
    """A Python that the peers run on: they want a newer one than we do."""
    if named := os.environ.get("BENCH_PEERS_PYTHON"):
        return named
    if sys.version_info >= OLDEST_PYTHON:
        return sys.executable
    for minor in range(OLDEST_PYTHON[1] + 8, OLDEST_PYTHON[1] - 1, -1):
        named_so = shutil.which(f"python3.{minor}")
        managed = Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python")
        for python in filter(None, (named_so, *map(str, managed))):
            # A name may stand for a version that is not switched on.
            if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
                return python
    raise RuntimeError("the peers need Python 3.12 or newer: name one in BENCH_PEERS_PYTHON")


def _python() -> Path:
    return _VENV / "bin" / "python"


def _command(name: str, phase: str, dsn: str, count: int) -> list[str]:
    return [str(_python()), str(_HERE / PEERS[name]), phase, dsn, str(count)]


def _run(name: str, phase: str, dsn: str, count: int) -> dict[str, Any]:
    command = _command(name, phase, dsn, count)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@contextmanager
def _working(name: str, dsn: str) -> Iterator[None]:
    """Have a worker process of the peer's run."""
    worker = subprocess.Popen(_command(name, "work", dsn, SLOTS), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        worker.kill()
        worker.wait(30)
