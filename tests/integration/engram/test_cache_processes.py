"""One cache, many processes: each file comes once, the budget holds, and kill -9 leaves order."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cache_crowd import CROWD_MODELS, KIB, ROTATION, TOGETHER, unique_bytes
from cache_tools import (
    BUCKET,
    Shelf,
    Watched,
    bring,
    bytes_below,
    files_of,
    random_content,
    strays,
)
from object_server import ObjectServer

from mnemos.engram.cache import ArtifactCache
from mnemos.engram.errors import LocalDiskError
from mnemos.engram.fetch import WantedFile, fetch_files
from mnemos.engram.files import OnBytes
from mnemos.engram.obtain import obtain

SUPPORT = Path(__file__).parents[2] / "support"
pytestmark = pytest.mark.chaos


def started(script: str, *words: object) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(SUPPORT), *sys.path])
    return subprocess.Popen(
        [sys.executable, str(SUPPORT / script), *map(str, words)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err[-2000:]
    return [json.loads(line) for line in out.splitlines()]


@contextmanager
def serving_crowd_models() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        for name, content in CROWD_MODELS.items():
            for path, data in content.items():
                server.put(BUCKET, f"{name.replace(':', '/')}/1/{path}", data)
        yield server


def test_eight_processes_that_want_models_at_once_fetch_each_file_once(tmp_path: Path) -> None:
    with serving_crowd_models() as server:
        seen = results(started("cache_crowd.py", "together", tmp_path / "cache", server.url))

    needed = unique_bytes(CROWD_MODELS)
    assert len(seen) == TOGETHER
    assert server.sent_bytes == needed
    assert sum(each["bytes"] for each in seen) == needed
    assert sum(1 for each in seen if each["bytes"] == 0) >= TOGETHER - len(CROWD_MODELS)
    assert strays(ArtifactCache(tmp_path / "cache")) == []


def test_a_third_of_the_models_room_holds_them_all_in_turn(tmp_path: Path) -> None:
    budget = unique_bytes(ROTATION) // 3 + 100 * KIB
    cache = ArtifactCache(tmp_path / "cache", budget)
    process = started("cache_crowd.py", "rotate", cache.root, tmp_path / "store", 2, 12, budget)
    most = 0
    while process.poll() is None:
        most = max(most, _held(cache))
    seen = results(process)

    assert [each["loads"] for each in seen] == [12, 12]
    assert sum(each["evicted"] for each in seen) > 0
    assert budget // 3 < most <= budget
    assert strays(cache) == []


def _held(cache: ArtifactCache) -> int:
    """What the cache takes, at one moment: a file that goes while others come counts once."""
    if not cache.layout.lock_file.exists():
        return 0
    with cache.locked():
        return bytes_below(cache.root)


def test_a_load_that_is_killed_at_any_step_leaves_nothing_wrong(tmp_path: Path) -> None:
    (counted,) = results(started("cache_crasher.py", "steps", tmp_path, 3, 9))

    assert counted["killed"] >= 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_disk_that_fills_up_half_way_is_said_and_left_as_it_was(
    tmp_path: Path, small_disk: Path
) -> None:
    shelf = Shelf(tmp_path / "store")
    shelf.put("big:1", random_content(1, a=1_500 * KIB, b=1_500 * KIB))
    cache = ArtifactCache(small_disk / "cache")
    filler = small_disk / "others"

    async def fetch(files: Sequence[WantedFile], on_bytes: OnBytes) -> None:
        await fetch_files(shelf.store(), BUCKET, files[:1], on_bytes=on_bytes)
        with contextlib.suppress(OSError):
            filler.write_bytes(b"x" * 2_500 * KIB)
        await fetch_files(shelf.store(), BUCKET, files[1:], on_bytes=on_bytes)

    listed = files_of(shelf.models["big:1"])
    with pytest.raises(LocalDiskError) as caught:
        await obtain(cache, "big", "1", listed, shelf.prefix("big:1"), fetch, Watched())

    assert caught.value.errno == errno.ENOSPC
    assert strays(cache) == []
    assert cache.get("big", "1") is None
    filler.unlink()
    (await bring(cache, shelf, "big:1")).close()
    assert cache.get("big", "1")
