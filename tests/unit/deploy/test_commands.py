"""The commands that images and the compose file run."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], env=variables, capture_output=True, text=True, timeout=60
    )


class Answering(BaseHTTPRequestHandler):
    """200 on /health, 503 elsewhere."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_healthy_is_who_answers_200(url: str) -> None:
    asked = {path: run("mnemos.healthy", url + path) for path in ("/health", "/ready")}
    assert asked["/health"].returncode == 0
    assert asked["/ready"].returncode == 1
    assert "503" in asked["/ready"].stderr
    gone = run("mnemos.healthy", "http://127.0.0.1:1/health")
    assert gone.returncode == 1
    assert "does not answer" in gone.stderr


def test_migrations_end_and_can_be_run_again(tmp_path: Path) -> None:
    variables = {"CORTEX_DATA_DIR": str(tmp_path), "GENOME_DATA_DIR": str(tmp_path)}
    for _ in range(2):
        assert run("mnemos.cortex", "migrate", **variables).returncode == 0
    assert run("mnemos.genome", "migrate", **variables).returncode == 0
    assert {"cortex.db", "genome.sqlite"} <= {path.name for path in tmp_path.iterdir()}
    assert run("mnemos.cortex", "migrat", **variables).returncode == 64


def test_buckets_are_made_once(tmp_path: Path) -> None:
    for _ in range(2):
        done = run(
            "mnemos.engram", "make-buckets", "one", "two", MNEMOS_ENGRAM_URL=tmp_path.as_uri()
        )
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
