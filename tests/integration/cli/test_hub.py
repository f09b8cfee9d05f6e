"""`mnemos models pull hf://…` against a small hub that serves one repository."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import struct
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from mnemos.cli.errors import CliError, ExitCode
from mnemos.cli.hub import HubModel, check_weights, look_up, parse_reference
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings
from mnemos.http import HttpServer

pytest.importorskip("huggingface_hub")
from huggingface_hub.utils import close_session

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HEADER = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
LONG = 24 * 1024 * 1024
LONG_HEADER = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (LONG, LONG)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": struct.pack("<Q", len(HEADER)) + HEADER + b"\x00" * 8,
    "pytorch_model.bin": b"a pickle",
    "onnx/model.onnx": b"another format",
    "README.md": b"# words",
}


REFUSALS = {
    "other": (404, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "secret": (401, ""),
    "forbidden": (403, ""),
    "busy": (429, ""),
    "broken": (500, ""),
}


def create_hub(cuts: list[str]) -> FastAPI:
    """The hub's routes that a snapshot needs, for org/name only.

    The download of each path in `cuts` is cut half way, once.
    """
    app = FastAPI()
    app.state.ranges = []

    @app.get("/api/models/org/{name}")
    @app.get("/api/models/org/{name}/revision/{revision:path}")
    async def info(name: str, revision: str = "main") -> Response:
        if name in REFUSALS:
            status, code = REFUSALS[name]
            return Response("{}", status, {"x-error-code": code} if code else {})
        if revision not in ("main", COMMIT):
            return Response("{}", 404, {"x-error-code": "RevisionNotFound"})
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
        if path in cuts and request.method == "GET":
            cuts.remove(path)
            return StreamingResponse(most_of(data), headers=headers_of(data))
        headers = headers_of(data)
        since = request.headers.get("range", "").removeprefix("bytes=").removesuffix("-")
        if since.isdigit() and request.method == "GET":
            app.state.ranges.append((path, int(since)))
            rest = data[int(since) :]
            headers |= {
                "content-length": str(len(rest)),
                "content-range": f"bytes {since}-{len(data) - 1}/{len(data)}",
            }
            return Response(rest, 206, headers)
        return Response(data if request.method == "GET" else None, headers=headers)

    return app


def headers_of(data: bytes) -> dict[str, str]:
    return {
        "x-repo-commit": COMMIT,
        "etag": f'"{hashlib.sha256(data).hexdigest()}"',
        "content-length": str(len(data)),
        "accept-ranges": "bytes",
    }


async def most_of(data: bytes) -> AsyncIterator[bytes]:
    """All but the last sixth, and then the line is cut."""
    yield data[: len(data) // 6 * 5]
    raise ConnectionError("the line is cut, as the test wants it")


@pytest.fixture
def cuts() -> list[str]:
    return []


@pytest.fixture
def hub_app(cuts: list[str]) -> FastAPI:
    return create_hub(cuts)


@pytest.fixture
async def hub(hub_app: FastAPI) -> AsyncIterator[str]:
    server = HttpServer(hub_app, "127.0.0.1", 0, setting="port", grace_seconds=0.1)
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


async def pull(
    hub: str, genome: str, tmp_path: Path, *words: str, **environment: str
) -> tuple[int, str]:
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
            **environment,
        },
    )
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stderr.decode() + stdout.decode()


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


@pytest.mark.parametrize(
    ("reference", "status", "said"),
    [
        ("org/other", ExitCode.NOT_FOUND, "The hub has no model org/other that you may see"),
        ("org/name@v9", ExitCode.NOT_FOUND, "The hub has no revision v9 of org/name"),
        ("org/gated", ExitCode.FAILED, "hf://org/gated is gated"),
        ("org/secret", ExitCode.FAILED, "denies access to hf://org/secret: it answered 401"),
        ("org/forbidden", ExitCode.FAILED, "The hub denies access to hf://org/forbidden"),
        ("org/busy", ExitCode.UNREACHABLE, "asked for hf://org/busy later"),
        ("org/broken", ExitCode.UNREACHABLE, "The hub answered 500 for hf://org/broken"),
    ],
)
async def test_what_the_hub_refuses_is_told(
    hub: str, monkeypatch: pytest.MonkeyPatch, reference: str, status: ExitCode, said: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub)
    try:
        with pytest.raises(CliError, match=re.escape(said)) as caught:
            await asyncio.to_thread(look_up, parse_reference(f"hf://{reference}"))
    finally:
        await asyncio.to_thread(close_session)  # it lies in the server's process here
    assert caught.value.exit_code is status


def test_a_model_of_pickles_is_not_fetched() -> None:
    reference = parse_reference("hf://org/name")
    pickled = HubModel(COMMIT, ("config.json", "pytorch_model.bin"))
    with pytest.raises(CliError, match=r"no safetensors, only pytorch_model\.bin"):
        check_weights(reference, pickled, ())
    packed = HubModel(COMMIT, ("a.Q4_K_M.gguf", "a.Q8_0.gguf"))
    with pytest.raises(CliError, match="no safetensors") as caught:
        check_weights(reference, packed, ())
    assert "--include '*Q4_K_M.gguf'" in str(caught.value.hint)
    check_weights(reference, packed, ("*Q8_0.gguf",))


async def test_a_download_that_is_cut_goes_on_where_it_stopped(
    hub: str,
    hub_app: FastAPI,
    genome: str,
    tmp_path: Path,
    cuts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = struct.pack("<Q", len(LONG_HEADER)) + LONG_HEADER + bytes(LONG)
    monkeypatch.setitem(FILES, "model.safetensors", weights)
    cuts.append("model.safetensors")
    status, said = await pull(hub, genome, tmp_path, "hf://org/name")
    if status:
        status, said = await pull(hub, genome, tmp_path, "hf://org/name")
    assert (status, cuts) == (0, []), said
    assert hub_app.state.ranges, "it was not fetched from its beginning"
    assert all(
        path == "model.safetensors" and 0 < since < len(weights)
        for path, since in hub_app.state.ranges
    )


async def test_a_branch_that_moved_is_another_model(
    hub: str, genome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("hf://org/name@main", "-o", "json")
    status, said = await pull(hub, genome, tmp_path, *words)
    assert status == 0, said
    model = json.loads(said[said.index("{\n") :])
    assert model["metadata"]["source"] == f"hf://org/name@{COMMIT}"
    moved = "f" * 40
    monkeypatch.setitem(globals(), "COMMIT", moved)
    status, said = await pull(hub, genome, tmp_path, *words)
    assert status == 6, said
    assert all(each in said for each in (model["metadata"]["source"], moved, "--replace"))


async def test_a_hub_that_cannot_be_reached_is_5(genome: str, tmp_path: Path) -> None:
    status, said = await pull("http://127.0.0.1:1", genome, tmp_path, "hf://org/name")
    assert status == 5, said
    assert "mnemos models push DIR" in said


async def test_offline_is_said(hub: str, genome: str, tmp_path: Path) -> None:
    status, said = await pull(hub, genome, tmp_path, "hf://org/name", HF_HUB_OFFLINE="1")
    assert status == 1, said
    assert "HF_HUB_OFFLINE is set" in said
