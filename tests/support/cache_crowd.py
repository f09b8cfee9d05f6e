"""Many processes at once on one cache, begun at the same moment.

    python cache_crowd.py together CACHE URL            half of 8 bring one model, half another
    python cache_crowd.py rotate CACHE STORE PROCESSES LOADS BUDGET   each brings one after another

Prints what each process saw as JSON, one line a process; one that fails ends it with a sentence.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache_tools import Shelf, Watched, bring, files_of, random_content, wrong_models

from mnemos.engram.cache import ArtifactCache
from mnemos.engram.errors import CacheFullError
from mnemos.engram.store import ObjectStore

KIB = 1024
TOGETHER = 8
SHARED = random_content(10, weights__shared=3_000 * KIB)
CROWD_MODELS = {
    "left:1": SHARED | random_content(11, l=700 * KIB, config=50),
    "right:1": SHARED | random_content(12, r=500 * KIB, config=60),
}
ROTATION = {f"m{n}:1": random_content(20 + n, w=700 * KIB, config=100) for n in range(9)}
PATIENCE_SECONDS = 60.0


def fill(root: Path, models: dict[str, dict[str, bytes]]) -> Shelf:
    """A store with these models."""
    shelf = Shelf(root)
    for name, content in models.items():
        shelf.put(name, content)
    return shelf


def unique_bytes(models: dict[str, dict[str, bytes]]) -> int:
    """What a crowd must fetch, each content once."""
    files = {file.sha256: file.size for each in models.values() for file in files_of(each)}
    return sum(files.values())


async def _bring_together(cache: ArtifactCache, url: str, index: int) -> dict[str, Any]:
    shelf = Shelf(cache.root.parent / "shelf")
    for name, content in CROWD_MODELS.items():
        shelf.models[name], shelf.versions[name] = content, [content]
    store = ObjectStore.from_url("s3://", endpoint=url)
    watched = Watched()
    name = list(CROWD_MODELS)[index % 2]
    (await bring(cache, shelf, name, watched, store)).close()
    assert not wrong_models(cache, shelf)
    return {"bytes": watched.bytes, "waited": watched.waited}


async def _rotate(cache: ArtifactCache, shelf: Shelf, loads: int, index: int) -> dict[str, Any]:
    source = random.Random(index)
    seen = {"loads": 0, "refused": 0, "evicted": 0}
    for _ in range(loads):
        name = source.choice(sorted(shelf.models))
        watched = Watched()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                held = await bring(cache, shelf, name, watched)
                break
            except CacheFullError as error:
                if not error.retryable or time.monotonic() > deadline:
                    raise
                seen["refused"] += 1
                await asyncio.sleep(0.02)
        with held:
            for path, data in shelf.models[name].items():
                assert (held.path / path).read_bytes() == data, f"{name} is not right"
                await asyncio.sleep(0.005)  # in use for a while, as by an engine
            assert held.path.exists(), f"{name} was evicted while it was in use"
        seen["loads"] += 1
        seen["evicted"] += len(watched.gone)
    return seen


def crowd(size: int, work: Callable[[int], dict[str, Any]]) -> None:
    """Fork `size` processes that begin together, and print what they saw."""
    gate, opener = os.pipe()
    children = []
    for index in range(size):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(opener)
                os.read(gate, 1)  # returns when the parent closes its end
                os.write(1, (json.dumps(work(index)) + "\n").encode())
                status = 0
            finally:
                if error := sys.exc_info()[1]:
                    sys.stderr.write(f"{type(error).__name__}: {error}\n")
                    sys.stderr.flush()
                os._exit(status)
        children.append(pid)
    os.close(opener)
    failed = [pid for pid in children if os.waitpid(pid, 0)[1]]
    sys.exit(1 if failed else 0)


def main() -> None:
    """Do what the command line asks for."""
    mode, folder, *rest = sys.argv[1:]
    if mode == "together":
        cache = ArtifactCache(Path(folder))
        crowd(TOGETHER, lambda index: asyncio.run(_bring_together(cache, rest[0], index)))
    shelf_root, processes, loads, budget = rest
    cache = ArtifactCache(Path(folder), int(budget))
    shelf = fill(Path(shelf_root), ROTATION)
    crowd(int(processes), lambda index: asyncio.run(_rotate(cache, shelf, int(loads), index)))


if __name__ == "__main__":
    main()
