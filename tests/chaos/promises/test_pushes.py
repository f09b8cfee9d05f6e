"""Pushes that are killed: what is registered stays whole, and the next push completes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from figures import Figures, Scale

from mnemos.cli.engram import EngramTarget
from mnemos.cli.sources.pruning import look_for_strays, remove_strays
from mnemos.engram.reading import find_damage
from mnemos.engram.store import ObjectStore
from mnemos.genome.client import GenomeClient
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings

pytestmark = pytest.mark.timeout(600)

BIG_BYTES = 48 * 1024 * 1024
SMALL_FILES = 40


def make_model(folder: Path, fill: bytes) -> Path:
    """A model whose files all hold `fill`."""
    folder.mkdir()
    entry = {"dtype": "U8", "shape": [BIG_BYTES], "data_offsets": [0, BIG_BYTES]}
    header = json.dumps({"w": entry}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(fill * BIG_BYTES)
    for number in range(SMALL_FILES):
        (folder / f"{number}.txt").write_bytes(fill * 1000)
    return folder


async def test_pushes_killed_at_random_moments(
    tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    folders = [make_model(tmp_path / name, name.encode()) for name in ("a", "b", "c")]
    target = EngramTarget((tmp_path / "engram").as_uri())
    store = target.open()
    wanted = scale.of(50, 6)
    killed = finished = 0
    async with GenomeServer(GenomeSettings(data_dir=tmp_path / "g", http_port=0)) as genome:
        began = time.monotonic()
        assert await (await push(genome.url, target, folders[0])).wait() == 0
        usual_seconds = time.monotonic() - began
        while killed < wanted:
            pushing = await push(genome.url, target, random.choice(folders))
            with suppress(TimeoutError):
                async with asyncio.timeout(usual_seconds * random.uniform(0.3, 1.0)):
                    await pushing.wait()
            if pushing.returncode is None:
                pushing.kill()
                killed += 1
            else:
                finished += 1
            await pushing.wait()
            assert await damage(genome.url, store) == []
        assert await (await push(genome.url, target, folders[1])).wait() == 0
        assert await damage(genome.url, store) == []
        strays = await look_for_strays(genome.url, target, timedelta(0), unregistered=True)
        figures.note("objects that nothing named", len(strays.objects))
        await remove_strays(strays)
        assert await damage(genome.url, store) == []
    left = [path for path in (tmp_path / "engram").rglob("*") if path.is_file()]
    assert {hashlib.sha256(path.read_bytes()[-1000:]).hexdigest() for path in left} == {
        hashlib.sha256(b"b" * 1000).hexdigest()
    }
    assert len(left) == SMALL_FILES + 1
    figures.note("pushes killed", killed)
    figures.note("pushes that were faster", finished)


async def push(genome_url: str, target: EngramTarget, folder: Path) -> Process:
    words = ["models", "push", str(folder), "--name", "tiny:1", "--replace"]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mnemos.cli", *words),
        *("--genome-url", genome_url, "--engram-url", target.url),
        stdout=DEVNULL,
        stderr=DEVNULL,
        env=os.environ,
    )


async def damage(genome_url: str, store: ObjectStore) -> list[str]:
    """What is wrong with the registered files."""
    async with GenomeClient(genome_url) as genome:
        model = await genome.get("tiny", "1")
    files = [(file.path, file.size, file.sha256) for file in model.files]
    return await find_damage(
        store, model.artifact.bucket, model.artifact_path, files, lambda done, total: None
    )
