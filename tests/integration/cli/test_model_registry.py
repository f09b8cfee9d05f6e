"""`mnemos models list|versions|show|tag|untag|delete` against a real GENOME."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from mnemos.cli.main import cli
from mnemos.genome.client import GenomeClient
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings


class Registry:
    """GENOME with three versions of `mine`, and the command line."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    async def mnemos(self, *words: str) -> Result:
        """Run `mnemos models …`."""
        environment = {"MNEMOS_GENOME_URL": self.url, "MNEMOS_DATA_DIR": str(self.folder)}
        runner = CliRunner(env=environment)
        return await asyncio.to_thread(runner.invoke, cli, ["models", *words])

    async def json(self, *words: str) -> Any:
        """Run it with -o json, and read what it says."""
        result = await self.mnemos(*words, "-o", "json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    settings = GenomeSettings(data_dir=tmp_path / "genome", http_port=0)
    async with AsyncExitStack() as stack:
        # GENOME logs in this process, and would do so to the stdout that the runner looks at.
        stack.enter_context(capture_logs())
        server = await stack.enter_async_context(GenomeServer(settings))
        genome = await stack.enter_async_context(GenomeClient(server.url))
        for version in ("1.2.0", "1.10.0", "1.9.0"):
            await genome.register(
                {
                    "family": "mine",
                    "version": version,
                    "artifact": {"format": "gguf"},
                    "files": [{"path": "m.gguf", "size": 5, "sha256": "a" * 64}],
                    "tags": ["small"],
                    "artifact_path": "shared" if version != "1.9.0" else "mine/1.9.0/second",
                }
            )
        yield Registry(server.url, tmp_path)


async def test_a_tag_is_set_followed_moved_and_removed(registry: Registry) -> None:
    tagged = await registry.mnemos("tag", "mine:1.2.0", "prod")
    assert (tagged.exit_code, tagged.stderr) == (0, "mine:prod is mine:1.2.0 now.\n")
    shown = await registry.json("show", "mine:prod")
    assert (shown["version"], shown["asked_tag"]) == ("1.2.0", "prod")
    assert "version tags  prod\n" in (await registry.mnemos("show", "mine:1.2.0")).stdout
    copied = await registry.json("tag", "mine:prod", "staging")
    assert (copied["tag"], copied["version"], copied["pinned"]) == ("staging", "1.2.0", True)
    assert (await registry.json("tag", "mine", "prod"))["version"] == "1.9.0"
    listed = await registry.mnemos("list", "--version-tag", "prod", "-o", "name")
    assert listed.stdout == "mine:1.9.0\n"
    table = (await registry.mnemos("versions", "mine")).stdout.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [
        ["1.9.0", "prod"], ["1.10.0", "-"], ["1.2.0", "staging"],
    ]  # fmt: skip
    removed = await registry.mnemos("untag", "mine:prod")
    assert (removed.exit_code, removed.stderr) == (0, "mine:prod is no version tag any more.\n")
    again = await registry.mnemos("untag", "mine:prod", "-o", "json")
    assert again.exit_code == 3
    assert json.loads(again.stderr)["error"]["code"] == "tag_not_found"


async def test_latest_stays_where_it_is_set(registry: Registry) -> None:
    assert (await registry.json("show", "mine"))["version"] == "1.9.0"
    await registry.mnemos("tag", "mine:1.2.0", "latest")
    assert (await registry.json("show", "mine"))["version"] == "1.2.0"
    await registry.mnemos("untag", "mine:latest")
    assert (await registry.json("show", "mine:latest"))["version"] == "1.9.0"


async def test_lists_are_narrowed_and_sorted(registry: Registry) -> None:
    highest = await registry.mnemos("versions", "mine", "--sort", "semver", "-o", "name")
    assert highest.stdout.split() == ["1.10.0", "1.9.0", "1.2.0"]
    for words, count in (
        (("--label", "small"), 3), (("--tag", "large"), 0), (("--format", "gguf"), 3),
        (("-q", "mine 10"), 1), (("--runtime", "vllm"), 0), (("--family", "other"), 0),
    ):  # fmt: skip
        assert len((await registry.json("list", *words))["models"]) == count, words
    assert (await registry.mnemos("list", "--tag", "x")).stderr == "No such model is registered.\n"
    assert (await registry.mnemos("list", "--format", "onnx")).exit_code == 2


async def test_names_that_cannot_be_are_told_before_anything_is_asked(registry: Registry) -> None:
    for words in (("tag", "mine:1.2.0", "../x"), ("untag", "mine"), ("delete", "mine")):
        assert (await registry.mnemos(*words)).exit_code == 2
    taken = await registry.mnemos("tag", "mine:1.2.0", "1.9.0")
    assert taken.exit_code == 6
    assert "1.9.0 is a version of mine" in taken.stderr
    (registry.folder / "model").mkdir()
    await registry.mnemos("tag", "mine:1.2.0", "prod")
    pushed = await registry.mnemos("push", str(registry.folder / "model"), "--name", "mine:prod")
    assert pushed.exit_code == 6, "before anything of the folder is looked at"
    assert "prod is a version tag of mine, which points to 1.2.0." in pushed.stderr


async def test_what_a_tag_points_to_is_deleted_by_force_and_shared_files_stay(
    registry: Registry,
) -> None:
    stored = registry.folder / "engram" / "mnemos-models"
    for folder in ("shared", "mine/1.9.0/first", "mine/1.9.0/second", "mine/1.9.0-rc"):
        (stored / folder).mkdir(parents=True)
        (stored / folder / "m.gguf").write_bytes(b"12345")
    await registry.mnemos("tag", "mine:1.2.0", "prod")
    refused = await registry.mnemos("delete", "mine:1.2.0", "--yes")
    assert refused.exit_code == 6
    assert "The version tag points to mine:1.2.0: prod" in refused.stderr
    by_tag = await registry.mnemos("delete", "mine:prod", "--yes", "--force")
    assert by_tag.exit_code == 2
    assert "name the version that it points to, 1.2.0" in by_tag.stderr
    deleted = await registry.mnemos("delete", "mine:1.2.0", "--yes", "--force")
    assert deleted.stderr == (
        "Its files stay: mine:1.10.0 has them as well.\nmine:1.2.0 is deleted.\n"
    )
    assert (stored / "shared" / "m.gguf").exists()
    await registry.mnemos("delete", "mine:1.9.0", "--yes")
    left = {path.parent.relative_to(stored).as_posix() for path in stored.rglob("m.gguf")}
    assert left == {"shared", "mine/1.9.0-rc"}
    shutil.rmtree(stored)
    gone = await registry.mnemos("rm", "mine:1.10.0", "--yes")
    assert gone.exit_code == 0, "there may be no files at all"
    assert (await registry.json("list"))["models"] == []
