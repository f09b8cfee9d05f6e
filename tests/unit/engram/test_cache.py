"""A cache of models in one process: what it keeps, what it removes, and what it refuses."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from cache_tools import (
    Shelf,
    Watched,
    bring,
    files_of,
    random_content,
    strays,
    wrong_models,
)

from mnemos.engram.cache import ArtifactCache, Load, check_paths
from mnemos.engram.cache.holding import try_free
from mnemos.engram.cache.layout import MARKER
from mnemos.engram.errors import (
    CacheFullError,
    DamagedObjectError,
    InvalidKeyError,
    LocalDiskError,
    OverBudgetError,
)

KIB = 1024
ROOM_FOR_TWO = 250 * KIB


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Three models of 100 KiB each, with nothing in common."""
    shelf = Shelf(tmp_path / "store")
    for seed, name in enumerate(("one:1", "two:1", "three:1")):
        shelf.put(name, random_content(seed, weights__w=100 * KIB, config=100, empty=0))
    return shelf


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


def cached(cache: ArtifactCache) -> set[str]:
    return {f"{entry.family}:{entry.version}" for entry in cache.entries()}


def as_if_used(cache: ArtifactCache, name: str, seconds_ago: float) -> None:
    moment = time.time() - seconds_ago
    os.utime(cache.folder(*name.split(":")) / MARKER, (moment, moment))


# ---------------------------------------------------------------- room


async def test_what_was_used_longest_ago_makes_room(tmp_path: Path, shelf: Shelf) -> None:
    cache = ArtifactCache(tmp_path / "cache", ROOM_FOR_TWO)
    for name in ("one:1", "two:1"):
        (await bring(cache, shelf, name)).close()
    as_if_used(cache, "two:1", 60)
    watched = Watched()

    (await bring(cache, shelf, "three:1", watched)).close()

    assert watched.gone == ["two:1"]
    assert cached(cache) == {"one:1", "three:1"}
    assert strays(cache) == []


async def test_neither_what_is_in_use_nor_what_is_pinned_makes_room(
    tmp_path: Path, shelf: Shelf
) -> None:
    cache = ArtifactCache(tmp_path / "cache", ROOM_FOR_TWO, pinned=["one:1"])
    (await bring(cache, shelf, "one:1")).close()
    as_if_used(cache, "one:1", 60)
    with await bring(cache, shelf, "two:1"):
        with pytest.raises(CacheFullError, match="one:1, two:1 are in use or pinned") as caught:
            await bring(cache, shelf, "three:1")
        assert caught.value.retryable
        assert cached(cache) == {"one:1", "two:1"}
        assert strays(cache) == []

    (await bring(cache, shelf, "three:1")).close()

    assert cached(cache) == {"one:1", "three:1"}


async def test_a_model_larger_than_the_budget_evicts_nothing(tmp_path: Path, shelf: Shelf) -> None:
    cache = ArtifactCache(tmp_path / "cache", 150 * KIB)
    (await bring(cache, shelf, "one:1")).close()
    shelf.put("big:1", random_content(9, w=200 * KIB))

    with pytest.raises(OverBudgetError, match=r"big:1 takes .* may hold") as caught:
        await bring(cache, shelf, "big:1")

    assert not caught.value.retryable
    assert cached(cache) == {"one:1"}


async def test_unfinished_files_go_before_any_model_and_after_a_day(
    tmp_path: Path, shelf: Shelf
) -> None:
    cache = ArtifactCache(tmp_path / "cache", ROOM_FOR_TWO)
    (await bring(cache, shelf, "one:1")).close()
    partial = cache.layout.partials / ("a" * 64)
    partial.write_bytes(b"x" * 100 * KIB)
    (cache.layout.partials / f"{'a' * 64}.journal").write_bytes(b"x")
    cache.remove_strays()
    assert partial.exists(), "it may go on where it stopped"

    (await bring(cache, shelf, "two:1")).close()
    assert not partial.exists()
    assert cached(cache) == {"one:1", "two:1"}

    partial.write_bytes(b"x")
    os.utime(partial, (1, 1))
    cache.remove_strays()
    assert strays(cache) == []


async def test_what_others_share_stays_when_one_goes(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "store")
    shared = random_content(1, w=100 * KIB)
    shelf.put("one:1", shared | {"config": b"1"})
    shelf.put("one:2", shared | {"config": b"2"})
    cache = ArtifactCache(tmp_path / "cache", 230 * KIB)
    watched = Watched()
    for name in ("one:1", "one:2"):
        (await bring(cache, shelf, name, watched)).close()
    assert watched.bytes == 100 * KIB + 2

    removed = cache.prune(0, keep=["one:2"])

    assert removed.models == ["one:1"]
    assert cached(cache) == {"one:2"}
    assert wrong_models(cache, shelf) == []
    assert strays(cache) == []
    assert cache.get("one", "2")


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("damage", ["flip", "shorter", "gone"])
async def test_verify_names_a_damaged_file_and_only_that_comes_anew(
    cache: ArtifactCache, shelf: Shelf, damage: str
) -> None:
    (await bring(cache, shelf, "one:1")).close()
    assert cache.verify("one", "1") == []
    file = cache.folder("one", "1") / "weights/w"
    if damage == "gone":
        file.unlink()
    else:
        file.chmod(0o644)
        with file.open("r+b") as opened:
            byte = opened.read(1)
            opened.seek(0)
            opened.write(bytes([byte[0] ^ 1]))
            if damage == "shorter":
                opened.truncate(10)

    (found,) = cache.verify("one", "1")
    assert found.path == "weights/w"
    assert (
        found.problem
        == {
            "flip": "wrong bytes",
            "shorter": "wrong size",
            "gone": "missing",
        }[damage]
    )

    assert cache.take_out([found]) == {"one:1"}
    assert cache.get("one", "1") is None
    watched = Watched()
    (await bring(cache, shelf, "one:1", watched)).close()
    assert watched.bytes == (0 if damage == "gone" else 100 * KIB)
    assert cache.verify("one", "1") == []
    assert strays(cache) == []


async def test_a_byte_flipped_in_the_store_leaves_nothing(
    cache: ArtifactCache, shelf: Shelf
) -> None:
    stored = next(shelf.root.rglob("one/*/*/weights/w"))
    data = bytearray(stored.read_bytes())
    data[5] ^= 1
    stored.write_bytes(data)

    with pytest.raises(DamagedObjectError, match="weights/w"):
        await bring(cache, shelf, "one:1")

    assert cache.get("one", "1") is None
    assert strays(cache) == []


async def test_a_model_of_the_first_layout_is_taken_over(
    cache: ArtifactCache, shelf: Shelf
) -> None:
    content = shelf.models["one:1"]
    folder = cache.root / "one" / "1"
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    old = {"digest": "0" * 64, "files": [[path, len(data)] for path, data in content.items()]}
    (folder / MARKER).write_text(json.dumps(old))
    (cache.root / ".locks").mkdir()
    (cache.root / ".locks" / "one@1").touch()
    (cache.root / ".staging" / "12-ab-cd").mkdir(parents=True)
    assert cache.get("one", "1") == folder, "with GENOME down"
    watched = Watched()

    cache.remove_strays()
    (await bring(cache, shelf, "one:1", watched)).close()

    assert watched.bytes == 0
    assert wrong_models(cache, shelf) == []
    assert cache.verify("one", "1") == []
    assert strays(cache) == []
    assert [path.name for path in (cache.root / ".locks").iterdir()] == ["cache"]


async def test_a_damaged_marker_is_fetched_around(cache: ArtifactCache, shelf: Shelf) -> None:
    (await bring(cache, shelf, "one:1")).close()
    (cache.folder("one", "1") / MARKER).write_bytes(b"{")
    assert cache.get("one", "1") is None
    watched = Watched()

    (await bring(cache, shelf, "one:1", watched)).close()

    assert watched.bytes == 0
    assert wrong_models(cache, shelf) == []
    assert strays(cache) == []


# ---------------------------------------------------------------- other file systems


async def test_without_hard_links_there_are_symbolic_ones(
    cache: ArtifactCache, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    (await bring(cache, shelf, "one:1")).close()

    assert (cache.folder("one", "1") / "weights/w").is_symlink()
    assert wrong_models(cache, shelf) == []
    assert cache.verify("one", "1") == []
    sha256 = files_of(shelf.models["one:1"])[0].sha256
    cache.layout.blob(sha256).unlink()
    assert cache.get("one", "1") is None
    (await bring(cache, shelf, "one:1")).close()
    cache.prune(0)
    assert strays(cache) == []
    assert cached(cache) == set()


async def test_without_locks_models_come_right_and_nothing_is_evicted(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    cache = ArtifactCache(tmp_path / "cache", ROOM_FOR_TWO)
    for name in ("one:1", "two:1"):
        (await bring(cache, shelf, name)).close()
    with pytest.raises(CacheFullError):
        await bring(cache, shelf, "three:1")

    assert cached(cache) == {"one:1", "two:1"}
    assert wrong_models(cache, shelf) == []


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("family", "version"),
    [
        ("../x", "1"),
        ("x", ".."),
        ("a/b", "1"),
        ("a\\b", "1"),
        ("", "1"),
        ("x", ""),
        ("x", "1\0"),
        ("/etc", "1"),
        (".blobs", "ab"),
        ("x", ".manifest.json"),
        ("x" * 300, "1"),
        ("x", "1" * 300),
        ("\uff54iny", "1"),
        ("tiny", "1\u200b"),
        ("t\u0456ny", "1"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(
    cache: ArtifactCache, family: str, version: str
) -> None:
    for call in (cache.folder, cache.get, cache.hold, cache.verify):
        with pytest.raises(InvalidKeyError):
            call(family, version)
    with pytest.raises(InvalidKeyError):
        cache.begin(family, version, files_of({"a": b""}))
    assert not cache.root.exists()


@pytest.mark.parametrize(
    "paths",
    [
        [],
        ["../x"],
        ["/etc/passwd"],
        ["a/../../x"],
        ["a\\b"],
        [""],
        ["a\0b"],
        ["a//b"],
        ["a/./b"],
        ["x" * 300],
        ["/".join(["x" * 100] * 20)],
        [MARKER],
        [".Manifest.JSON"],
        [f"{MARKER}/x"],
        ["a", "a"],
        ["a", "A"],
        ["a", "a/b"],
        ["a/b/c", "A/B"],
        ["é", "e\u0301"],
        ["\uff0e\uff0e/x"],
        ["a\uff0fb", "a"],
        ["a\u200bb"],
        [f"f{n}" for n in range(10_001)],
    ],
)
def test_lists_of_files_that_lead_elsewhere_are_refused(paths: list[str]) -> None:
    with pytest.raises(InvalidKeyError):
        check_paths(paths)


def test_usual_names_of_files_are_not_refused() -> None:
    check_paths(["config.json", "Config", ".gitattributes", "a b/ü.bin", "model…", "onnx/x.json"])


def test_one_content_with_two_sizes_is_refused(cache: ArtifactCache) -> None:
    (file,) = files_of({"a": b"x"})
    other = type(file)("b", 2, file.sha256)
    with pytest.raises(InvalidKeyError, match="two sizes"):
        cache.begin("one", "1", [file, other])


async def test_links_that_somebody_put_there_are_not_followed(
    tmp_path: Path, cache: ArtifactCache, shelf: Shelf
) -> None:
    (await bring(cache, shelf, "one:1")).close()
    precious = tmp_path / "precious"
    (precious / "1").mkdir(parents=True)
    (precious / "1" / "kept").write_bytes(b"kept")
    file = files_of(shelf.models["two:1"])[0]
    partial = cache.layout.partials / file.sha256
    partial.symlink_to(precious / "1" / "kept")
    (cache.root / "two").mkdir()
    (cache.root / "two" / "1").symlink_to(precious / "1")
    (cache.root / "three").symlink_to(precious)
    weights = cache.folder("one", "1") / "weights"
    weights.rename(tmp_path / "aside")
    weights.symlink_to(tmp_path / "aside")

    assert cache.get("one", "1") is None
    assert cache.get("two", "1") is None
    for name in ("one:1", "two:1"):
        (await bring(cache, shelf, name)).close()
    with pytest.raises(LocalDiskError, match="symbolic link"):
        await bring(cache, shelf, "three:1")
    cache.prune(0)
    cache.remove_strays(0)

    assert (precious / "1" / "kept").read_bytes() == b"kept"
    assert (tmp_path / "aside" / "w").exists()
    assert (cache.root / "three").is_symlink()
    assert cached(cache) == set()


# ---------------------------------------------------------------- many


async def test_who_only_looks_whether_a_model_is_in_use_is_waited_for(
    cache: ArtifactCache, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    (await bring(cache, shelf, "one:1")).close()
    looking = try_free(cache.folder("one", "1"))
    assert looking is not None
    monkeypatch.setattr(time, "sleep", lambda _: os.close(looking))

    assert cache.get("one", "1"), "it was here all the time"


async def test_a_lock_file_that_was_removed_locks_nobody_out(
    cache: ArtifactCache, shelf: Shelf
) -> None:
    (await bring(cache, shelf, "one:1")).close()
    with cache.locked():
        cache.layout.lock_file.unlink()
        with cache.locked():
            pass
    assert cached(cache) == {"one:1"}


async def test_a_cache_that_cannot_be_written_is_still_used(
    tmp_path: Path, cache: ArtifactCache, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    (await bring(cache, shelf, "one:1")).close()

    def refuse(path: Any, flags: int, *given: Any, **named: Any) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *given, **named)

    opened = os.open
    monkeypatch.setattr(os, "open", refuse)
    with cache.hold("one", "1") or pytest.fail("it is here"):
        (entry,) = cache.entries()
        assert entry.in_use
    with pytest.raises(LocalDiskError, match="Read-only"):
        await bring(cache, shelf, "two:1")


def test_a_second_load_of_a_model_waits_and_hears_how_far_the_first_is(
    cache: ArtifactCache, shelf: Shelf
) -> None:
    files = files_of(shelf.models["one:1"])
    first = cache.begin("one", "1", files)
    assert isinstance(first, Load)
    assert len(first.claim().files) == 3
    first.tell(37)

    second = cache.begin("one", "1", files)
    assert not isinstance(second, Load)
    assert getattr(second, "percent", None) == 37

    other = cache.begin("other", "1", files)
    assert isinstance(other, Load)
    claimed = other.claim()
    assert claimed.files == ()
    assert claimed.waits
    assert claimed.percent == 37
    first.close()
    assert len(other.claim().files) == 3
    other.close()
    assert strays(cache) == []


async def test_a_version_that_was_replaced_takes_the_old_ones_place(
    cache: ArtifactCache, shelf: Shelf
) -> None:
    held = await bring(cache, shelf, "one:1")
    opened = (held.path / "weights/w").open("rb")
    shelf.put("one:1", random_content(50, weights__w=100 * KIB, config=100))

    (await bring(cache, shelf, "one:1")).close()

    with opened:
        assert hashlib.sha256(opened.read()).hexdigest() in {f.sha256 for f in held.marker.files}
    held.close()
    assert (held.path / "config").read_bytes() == shelf.models["one:1"]["config"]
    assert strays(cache) == []


async def test_prune_says_what_would_go_and_keeps_what_it_is_told(
    cache: ArtifactCache, shelf: Shelf
) -> None:
    for seconds_ago, name in ((30, "one:1"), (20, "two:1"), (10, "three:1")):
        (await bring(cache, shelf, name)).close()
        as_if_used(cache, name, seconds_ago)

    would = cache.prune(150 * KIB, dry_run=True)
    assert would.models == ["one:1", "two:1"]
    assert len(cached(cache)) == 3
    assert cache.prune(150 * KIB, keep=["one:1"]).models == ["two:1", "three:1"]
    assert cached(cache) == {"one:1"}
    assert strays(cache) == []
