"""The model cache: right models or none, whatever is killed, and never above its budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cache_crowd import KIB, ROTATION, unique_bytes
from cache_tools import bytes_below, strays
from figures import Figures, Scale

from mnemos.engram.cache import ArtifactCache

pytestmark = pytest.mark.timeout(600)

SUPPORT = Path(__file__).parents[2] / "support"


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
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-2000:]
    return [json.loads(line) for line in out.splitlines()]


def test_loads_killed_at_random_moments(tmp_path: Path, scale: Scale, figures: Figures) -> None:
    seed = int.from_bytes(os.urandom(4))
    process = started("cache_crasher.py", "moments", tmp_path, scale.of(50, 8), seed)
    (counted,) = results(process)

    figures.note("loads killed", counted["killed"])
    figures.note("loads that were faster", counted["finished"])
    assert counted["killed"] >= scale.of(50, 8)


def test_loads_killed_at_each_step(tmp_path: Path, scale: Scale, figures: Figures) -> None:
    (counted,) = results(started("cache_crasher.py", "steps", tmp_path, 1, scale.of(1, 10)))

    figures.note("steps at which a load was killed", counted["killed"])
    assert counted["killed"] >= scale.of(100, 10)


def test_models_in_turn_in_a_third_of_their_room(
    tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    budget = unique_bytes(ROTATION) // 3 + 100 * KIB
    cache = ArtifactCache(tmp_path / "cache", budget)
    workers, loads = scale.of(8, 2), scale.of(60, 12)
    words = ("rotate", cache.root, tmp_path / "store", workers, loads, budget)
    process = started("cache_crowd.py", *words)
    most = looks = 0
    while process.poll() is None:
        if cache.layout.lock_file.exists():
            with cache.locked():  # a file that goes while another comes counts once
                most = max(most, bytes_below(cache.root))
            looks += 1
    seen = results(process)

    figures.note("loads", sum(each["loads"] for each in seen))
    figures.note("evictions", sum(each["evicted"] for each in seen))
    figures.note("waits for room", sum(each["refused"] for each in seen))
    figures.note("most of the budget that was taken", most / budget)
    figures.note("looks", looks)
    assert [each["loads"] for each in seen] == [loads] * workers
    assert sum(each["evicted"] for each in seen) > 0
    assert most <= budget
    assert strays(cache) == []
