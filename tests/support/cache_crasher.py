"""Kills loads of models at chosen or random moments, and looks at what the next start finds.

    python cache_crasher.py steps FOLDER FIRST EVERY    at each EVERY-th step that changes the disk
    python cache_crasher.py moments FOLDER COUNT SEED   at random moments

A load brings a model that makes another go, then one that was replaced in the store. Every child
is forked from this process, before it has threads, and dies by SIGKILL. Prints what it counted as
one line of JSON; a broken promise ends it with a sentence.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from cache_tools import Shelf, bring_now, bytes_below, random_content, strays, wrong_models

from mnemos.engram.cache import ArtifactCache

KIB = 1024
BUDGET_BYTES = 3_400 * KIB
STEPS = (
    "rename", "replace", "link", "symlink", "unlink", "mkdir", "rmdir", "chmod", "utime",
    "pwrite", "ftruncate", "posix_fallocate", "fsync",
)  # fmt: skip


class Stage:
    """A store, and caches that all begin alike: with the models `old:1` and `kept:1`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shelf = Shelf(root / "store")
        shared = random_content(0, weights__shared=600 * KIB)
        self.shelf.put("old:1", shared | random_content(1, a=900 * KIB, config=100))
        self.shelf.put("kept:1", shared | random_content(2, b=500 * KIB, config=100))
        template = self.cache(root / "template")
        for name in ("old:1", "kept:1"):
            assert self.in_child(partial(bring_now, template, self.shelf, name))
        self.shelf.put("new:1", random_content(3, weights__c=1_000 * KIB, d=300 * KIB, config=100))
        self.shelf.put("kept:1", shared | random_content(4, b=500 * KIB, config=100))

    def cache(self, folder: Path) -> ArtifactCache:
        return ArtifactCache(folder, BUDGET_BYTES)

    def fresh(self) -> ArtifactCache:
        folder = self.root / "cache"
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["cp", "-a", self.root / "template", folder], check=True)
        return self.cache(folder)

    def load(self, cache: ArtifactCache) -> None:
        cache.remove_strays()
        for name in ("new:1", "kept:1"):
            bring_now(cache, self.shelf, name)

    def in_child(self, work: Callable[[], None], kill_after: float | None = None) -> bool:
        """Whether a child did its work to the end."""
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                work()
                status = 0
            finally:
                os._exit(status)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return False
        assert os.waitstatus_to_exitcode(status) == 0, "a load failed"
        return True

    def check(self, cache: ArtifactCache, when: str) -> None:
        """Right models or none; after the next load all of them, and nothing else."""
        wrong = wrong_models(cache, self.shelf)
        assert not wrong, f"{when}: {wrong} are not right before the next start"
        assert self.in_child(lambda: self.load(cache))
        wrong = wrong_models(cache, self.shelf)
        assert not wrong, f"{when}: {wrong} are not right"
        for name in ("new", "kept"):
            assert cache.get(name, "1"), f"{when}: {name}:1 is not there"
        assert cache.get("old", "1") is None, f"{when}: nothing made room"
        left = strays(cache)
        assert not left, f"{when}: {left} are left"
        held = bytes_below(cache.root)
        assert held <= BUDGET_BYTES, f"{when}: the cache holds {held} bytes"


def die_at(step: int) -> None:
    """Have this process kill itself before its `step`-th step."""
    steps = count(1)

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **named)

        return call

    for name in STEPS:
        setattr(os, name, dying(getattr(os, name)))


def at_steps(stage: Stage, first: int, every: int) -> dict[str, int]:
    """Kill a load at one step after another, until one gets to its end."""
    for killed in count():
        step = first + killed * every
        cache = stage.fresh()
        finished = stage.in_child(partial(_load_and_die, stage, cache, step))
        stage.check(cache, f"killed at step {step}")
        if finished:
            return {"killed": killed, "steps": step}
    raise AssertionError


def _load_and_die(stage: Stage, cache: ArtifactCache, step: int) -> None:
    die_at(step)
    stage.load(cache)


def at_moments(stage: Stage, wanted: int, seed: int) -> dict[str, int]:
    """Kill loads at random moments, twice in a row now and then."""
    source = random.Random(seed)
    cache = stage.fresh()
    began = time.monotonic()
    assert stage.in_child(lambda: stage.load(cache))
    took = time.monotonic() - began
    killed = finished = 0
    while killed < wanted:
        cache = stage.fresh()
        for _ in range(source.choice((1, 1, 2))):
            if stage.in_child(partial(stage.load, cache), source.uniform(0, took)):
                finished += 1
            else:
                killed += 1
        stage.check(cache, f"killed {killed} times with seed {seed}")
    return {"killed": killed, "finished": finished}


def main() -> None:
    """Do what the command line asks for."""
    mode, folder, first, second = sys.argv[1:]
    stage = Stage(Path(folder))
    run = {"steps": at_steps, "moments": at_moments}[mode]
    sys.stdout.write(json.dumps(run(stage, int(first), int(second))) + "\n")


if __name__ == "__main__":
    main()
