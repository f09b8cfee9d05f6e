"""What the tests of the model cache share: models in a store, loads, and what must hold after."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mnemos.engram.cache import ArtifactCache, Hold
from mnemos.engram.cache.inventory import take_inventory
from mnemos.engram.fetch import WantedFile, fetch_files
from mnemos.engram.files import OnBytes
from mnemos.engram.manifest import ManifestFile
from mnemos.engram.obtain import obtain
from mnemos.engram.store import ObjectStore

BUCKET = "mnemos-models"
Content = Mapping[str, bytes]


def random_content(seed: int, **sizes: int) -> dict[str, bytes]:
    """Files with random bytes, the same for the same seed; `__` in a name is a slash."""
    source = random.Random(seed)
    return {name.replace("__", "/"): source.randbytes(size) for name, size in sizes.items()}


def files_of(content: Content) -> tuple[ManifestFile, ...]:
    """The list of files that a manifest has."""
    return tuple(
        ManifestFile(path, len(data), hashlib.sha256(data).hexdigest())
        for path, data in content.items()
    )


class Shelf:
    """A store in a folder, and what its models are; `versions` keeps all that ever were."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models: dict[str, Content] = {}
        self.versions: dict[str, list[Content]] = {}
        (root / BUCKET).mkdir(parents=True, exist_ok=True)

    def put(self, name: str, content: Content) -> None:
        """Store a model, `family:version`."""
        self.models[name] = content
        self.versions.setdefault(name, []).append(content)
        for path, data in content.items():
            place = self.root / BUCKET / self.prefix(name) / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)

    def prefix(self, name: str) -> str:
        """Where a model's files lie; a replaced one keeps its old place."""
        return f"{name.replace(':', '/')}/{len(self.versions[name])}"

    def store(self) -> ObjectStore:
        """What reads it."""
        return ObjectStore.from_url(f"file://{self.root}")


class Watched:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.waited = 0
        self.bytes = 0
        self.gone: list[str] = []

    def begun(self, here_bytes: int, total_bytes: int) -> None:
        """Nothing to do."""

    def came(self, count: int) -> None:
        self.bytes += count

    def waiting(self, percent: int) -> None:
        assert 0 <= percent <= 100
        self.waited += 1

    def evicted(self, models: Sequence[str]) -> None:
        self.gone += models


async def bring(
    cache: ArtifactCache,
    shelf: Shelf,
    name: str,
    watched: Watched | None = None,
    store: ObjectStore | None = None,
) -> Hold:
    """Have a model in the cache, from the shelf or another store with its files."""
    source = store or shelf.store()
    family, _, version = name.partition(":")

    async def fetch(files: Sequence[WantedFile], on_bytes: OnBytes) -> None:
        await fetch_files(source, BUCKET, files, on_bytes=on_bytes)

    files = files_of(shelf.models[name])
    watcher = watched or Watched()
    return await obtain(cache, family, version, files, shelf.prefix(name), fetch, watcher)


def bring_now(cache: ArtifactCache, shelf: Shelf, name: str) -> None:
    """Have a model in the cache, from a program without a loop."""
    asyncio.run(bring(cache, shelf, name)).close()


def wrong_models(cache: ArtifactCache, shelf: Shelf) -> list[str]:
    """The models that the cache gives out and that are not, byte for byte, what they should be."""
    wrong = []
    for name, versions in shelf.versions.items():
        family, _, version = name.partition(":")
        folder = cache.get(family, version)
        if folder is None:
            continue
        if not any(_is(folder, content) for content in versions):
            wrong.append(name)
    return wrong


def _is(folder: Path, content: Content) -> bool:
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".manifest.json"
    }
    return found == set(content) and all(
        (folder / path).read_bytes() == data for path, data in content.items()
    )


def strays(cache: ArtifactCache) -> list[str]:
    """Whatever lies in the cache besides models and the blobs that they are made of."""
    layout = cache.layout
    left = [
        path.relative_to(cache.root).as_posix()
        for folder in (layout.staging, layout.partials, layout.trash)
        for path in _all_below(folder)
    ]
    found = take_inventory(layout)
    left += [f"blob {sha256}" for sha256 in found.orphans]
    left += [f"folder {model.name}" for model in found.models if model.marker is None]
    left += [f"empty {path.name}" for path in layout.blobs.iterdir() if not any(path.iterdir())]
    left += [
        path.name
        for path in cache.root.iterdir()
        if not any(path.iterdir()) and path.name[0] != "."
    ]
    return left


def bytes_below(root: Path) -> int:
    """What a folder takes on disk, each file once: as a watcher from outside sees it."""
    found: dict[tuple[int, int], int] = {}
    for path in _all_below(root):
        try:
            status = path.lstat()
        except OSError:
            continue
        if path.is_file() and not path.is_symlink():
            found[status.st_dev, status.st_ino] = max(status.st_size, status.st_blocks * 512)
    return sum(found.values())


def _all_below(folder: Path) -> Iterator[Path]:
    try:
        entries = list(folder.iterdir())
    except OSError:
        return
    for path in entries:
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _all_below(path)
