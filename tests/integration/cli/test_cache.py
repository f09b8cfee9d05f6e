"""`mnemos cache list|prune|verify` on a real cache, with a real GENOME and a store in a folder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cache_tools import BUCKET, Shelf, bring, files_of, random_content, strays, wrong_models
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from mnemos.cli.main import cli
from mnemos.cli.sizes import parse_size
from mnemos.engram.cache import ArtifactCache
from mnemos.genome.client import GenomeClient
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings


class Bench:
    """A cache with two versions of `mine` that share a file, and the command line."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url
        self.shelf = Shelf(root / "engram")
        self.cache = ArtifactCache(root / "workers" / "models")

    async def mnemos(self, *words: str) -> Result:
        environment = {"MNEMOS_GENOME_URL": self.url, "MNEMOS_DATA_DIR": str(self.root)}
        runner = CliRunner(env=environment)
        return await asyncio.to_thread(runner.invoke, cli, ["cache", *words])


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    shared = random_content(1, weights=50_000)
    async with AsyncExitStack() as stack:
        stack.enter_context(capture_logs())  # GENOME's, which the runner would see on stdout
        server = await stack.enter_async_context(
            GenomeServer(GenomeSettings(data_dir=tmp_path / "genome", http_port=0))
        )
        genome = await stack.enter_async_context(GenomeClient(server.url))
        bench = Bench(tmp_path, server.url)
        for version in ("1", "2"):
            content = shared | {"config.json": version.encode()}
            bench.shelf.put(f"mine:{version}", content)
            listed = [
                {"path": file.path, "size": file.size, "sha256": file.sha256}
                for file in files_of(content)
            ]
            artifact = {"bucket": BUCKET, "format": "safetensors"}
            place = bench.shelf.prefix(f"mine:{version}")
            await genome.register(
                {
                    "family": "mine",
                    "version": version,
                    "artifact": artifact,
                    "artifact_path": place,
                    "files": listed,
                }
            )
            (await bring(bench.cache, bench.shelf, f"mine:{version}")).close()
        yield bench


async def test_list_says_what_lies_here_and_what_it_would_free(bench: Bench) -> None:
    with bench.cache.hold("mine", "2") or pytest.fail("not here"):
        told = json.loads((await bench.mnemos("list", "-o", "json")).stdout)["models"]
    by_name = {row["model"]: row for row in told}

    assert by_name["mine:2"]["state"] == "in use"
    assert by_name["mine:1"]["size_bytes"] == 50_001
    assert by_name["mine:1"]["freed_bytes"] < 50_000, "the weights are shared"
    table = await bench.mnemos("list")
    assert table.stdout.splitlines()[0].split()[:2] == ["MODEL", "STATE"]
    assert "of at most" in table.stderr
    empty = await bench.mnemos("list", "--cache-dir", str(bench.root / "none"))
    assert (empty.exit_code, empty.stdout) == (0, "")


async def test_verify_names_damage_and_mends_what_shares_it(bench: Bench) -> None:
    assert (await bench.mnemos("verify")).exit_code == 0
    weights = bench.cache.folder("mine", "1") / "weights"
    weights.chmod(0o644)
    weights.write_bytes(b"y" * 50_000)  # both versions' file

    found = await bench.mnemos("verify", "mine:1")
    assert found.exit_code == 1
    assert found.stdout == "mine:1  weights: wrong bytes\n"
    assert "1 file is damaged" in found.stderr

    mended = await bench.mnemos("verify", "mine:1", "--mend", "-o", "json")
    assert mended.exit_code == 0, mended.stderr
    assert [row["mended"] for row in json.loads(mended.stdout)["damaged"]] == [True]
    assert "Fetching 50,000 bytes of mine:1" in mended.stderr
    assert (await bench.mnemos("verify")).exit_code == 0
    assert wrong_models(bench.cache, bench.shelf) == []
    assert bench.cache.get("mine", "2")
    assert strays(bench.cache) == []


async def test_nothing_is_taken_out_while_nobody_can_bring_it_anew(bench: Bench) -> None:
    weights = bench.cache.folder("mine", "1") / "weights"
    weights.chmod(0o644)
    weights.write_bytes(b"y" * 50_000)
    bench.url = "http://127.0.0.1:9"

    assert (await bench.mnemos("verify", "--mend")).exit_code == 5
    assert weights.exists()
    assert (await bench.mnemos("verify", "mine:3")).exit_code == 3


async def test_prune_removes_what_it_is_told_to(bench: Bench) -> None:
    would = await bench.mnemos("prune", "--all", "--dry-run", "--keep", "mine:2")
    assert would.stdout == "mine:1\n"
    assert bench.cache.get("mine", "1")
    gone = await bench.mnemos("prune", "--all", "--keep", "mine:2", "-o", "json")
    assert json.loads(gone.stdout)["models"] == ["mine:1"]
    assert bench.cache.get("mine", "1") is None
    assert bench.cache.get("mine", "2")
    assert (await bench.mnemos("prune", "--to", "20GB")).stdout == ""
    assert (await bench.mnemos("prune", "--to", "20 apples")).exit_code == 2
    assert (await bench.mnemos("prune", "--to", "1GB", "--all")).exit_code == 2
    assert (await bench.mnemos("prune", "--keep", "../x")).exit_code == 2


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("512", 512),
        ("2kB", 2000),
        ("1.5GiB", 3 * 2**29),
        ("20G", 20 * 10**9),
        ("x", None),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, count: int | None) -> None:
    assert parse_size(text) == count
