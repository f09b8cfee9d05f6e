"""`mnemos models pull hf://…` against a small hub that serves one repository."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import struct
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response

from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings
from mnemos.http import HttpServer

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HEADER = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": struct.pack("<Q", len(HEADER)) + HEADER + b"\x00" * 8,
    "pytorch_model.bin": b"a pickle",
    "onnx/model.onnx": b"another format",
    "README.md": b"# words",
}


def create_hub() -> FastAPI:
    """The hub's routes that a snapshot needs, for org/name only."""
    app = FastAPI()

    @app.get("/api/models/org/{name}")
    @app.get("/api/models/org/{name}/revision/{revision:path}")
    async def info(name: str, revision: str = "main") -> Response:
        if name != "name" or revision not in ("main", COMMIT):
            code = "RepoNotFound" if name != "name" else "RevisionNotFound"
            return Response("{}", 404, {"x-error-code": code})
        siblings = [{"rfilename": path} for path in FILES]
        body = {"id": "org/name", "sha": COMMIT, "siblings": siblings, "private": False}
        return Response(json.dumps(body), media_type="application/json")

    @app.get("/api/models/org/name/tree/{revision}")
    async def tree(revision: str) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}  # noqa: S324 - git's own
            for path, data in FILES.items()
        ]

    @app.api_route("/org/name/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    async def resolve(revision: str, path: str, request: Request) -> Response:
        data = FILES[path]
        headers = {
            "x-repo-commit": COMMIT,
            "etag": f'"{hashlib.sha256(data).hexdigest()}"',
            "content-length": str(len(data)),
        }
        return Response(data if request.method == "GET" else None, headers=headers)

    return app


@pytest.fixture
async def hub() -> AsyncIterator[str]:
    server = HttpServer(create_hub(), "127.0.0.1", 0, setting="port", grace_seconds=0.1)
    server.bind()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(server.serve())
        await server.wait_ready()
        yield f"http://127.0.0.1:{server.port}"
        task.cancel()


@pytest.fixture
async def genome(tmp_path: Path) -> AsyncIterator[str]:
    settings = GenomeSettings(data_dir=tmp_path / "data" / "genome", http_port=0)
    async with GenomeServer(settings) as server:
        yield server.url


async def pull(hub: str, genome: str, tmp_path: Path, *words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mnemos.cli",
        "models",
        "pull",
        *words,
        stdout=PIPE,
        stderr=PIPE,
        env={
            **os.environ,
            "HF_ENDPOINT": hub,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "MNEMOS_GENOME_URL": genome,
            "MNEMOS_DATA_DIR": str(tmp_path / "data"),
        },
    )
    _, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stderr.decode()


async def test_a_hub_model_is_published_without_its_pickles(
    hub: str, genome: str, tmp_path: Path
) -> None:
    status, said = await pull(hub, genome, tmp_path, "hf://org/name")
    assert status == 0, said
    assert "name:0123456789ab is ready" in said
    version = tmp_path / "data" / "engram" / "mnemos-models" / "name" / "0123456789ab"
    (stored,) = version.iterdir()
    names = {path.name for path in stored.iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md"}
    assert not (tmp_path / "data" / "cache" / "hub" / "org--name" / COMMIT).exists()
    again = await pull(hub, genome, tmp_path, "hf://org/name")
    assert (again[0], again[1].splitlines()[-1]) == (0, "name:0123456789ab is here already.")


async def test_a_hub_model_may_get_another_name(hub: str, genome: str, tmp_path: Path) -> None:
    status, said = await pull(hub, genome, tmp_path, "hf://org/name@main", "--name", "mine:2")
    assert status == 0, said
    assert "mine:2 is ready" in said


@pytest.mark.parametrize("reference", ["hf://org/other", "hf://org/name@v9"])
async def test_what_the_hub_does_not_have_is_3(
    hub: str, genome: str, tmp_path: Path, reference: str
) -> None:
    status, said = await pull(hub, genome, tmp_path, reference)
    assert status == 3, said
    assert "The hub has no model" in said


async def test_a_hub_that_cannot_be_reached_is_5(genome: str, tmp_path: Path) -> None:
    status, said = await pull("http://127.0.0.1:1", genome, tmp_path, "hf://org/name")
    assert status == 5, said
    assert "mnemos models push DIR" in said
