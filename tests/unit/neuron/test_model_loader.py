"""Models' files: complete and verified on this machine, or not there at all."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mnemos.engram.cache import ArtifactCache, Load
from mnemos.engram.cache.inventory import take_inventory
from mnemos.engram.fetch import CONNECTIONS, WantedFile
from neuron.clients.engram_client import EngramClient
from neuron.config import Settings
from neuron.errors import (
    ArtifactCorruptError,
    InsufficientResourcesError,
    InvalidInputError,
    ModelNotFoundError,
    StorageUnavailableError,
)
from neuron.services.model_loader import ModelLoaderService
from neuron.services.model_manifest import parse_manifest
from neuron.utils.metrics import WorkerMetrics

CONTENT = {"config.json": b"{}", "weights/part.bin": b"x" * 5000}


class Genome:
    """Knows what it is told, and can be down."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.down = False

    async def get_model(self, family: str, version: str) -> dict[str, Any]:
        if self.down:
            raise StorageUnavailableError("GENOME is down")
        try:
            return self.models[f"{family}:{version}"]
        except KeyError:
            raise ModelNotFoundError(f"no {family}:{version}") from None


class CountingEngram:
    """The real client on a folder, counting downloads."""

    def __init__(self, root: Path) -> None:
        self.client = EngramClient(f"file://{root}", "", "")
        self.downloads = 0
        self.fetched: list[str] = []
        self.began = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(
        self,
        bucket: str | None,
        files: Sequence[WantedFile],
        on_bytes: Callable[[int], None] | None = None,
        *,
        connections: int = CONNECTIONS,
    ) -> None:
        self.downloads += 1
        self.connections = connections
        self.fetched += [file.key for file in files]
        self.began.set()
        await self.gate.wait()
        await self.client.fetch(bucket, files, on_bytes)

    async def fingerprint(self, bucket: str | None, prefix: str) -> str:
        return await self.client.fingerprint(bucket, prefix)


def describe(content: dict[str, bytes], path: str = "tiny/1") -> dict[str, Any]:
    return {
        "artifact_path": path,
        "artifact": {"bucket": "mnemos-models", "path": path},
        "files": [
            {"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in content.items()
        ],
    }


def store(root: Path, content: dict[str, bytes], path: str = "tiny/1") -> None:
    for name, data in content.items():
        file = root / "mnemos-models" / path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


@pytest.fixture
def genome() -> Genome:
    genome = Genome()
    genome.models["tiny:1"] = describe(CONTENT)
    return genome


@pytest.fixture
async def engram(tmp_path: Path) -> CountingEngram:
    store(tmp_path / "engram", CONTENT)
    return CountingEngram(tmp_path / "engram")


@pytest.fixture
def loader(tmp_path: Path, genome: Genome, engram: CountingEngram) -> ModelLoaderService:
    settings = Settings(model_cache_dir=tmp_path / "cache")
    return ModelLoaderService(settings, genome, engram)


def nothing_left_behind(loader: ModelLoaderService) -> bool:
    """Whether all that lies in the cache is models, and what they are made of."""
    layout = loader.cache.artifacts.layout
    if not loader.cache.cache_dir.exists():
        return True
    strays = [
        path
        for name in (".staging", ".trash", ".partial")
        for path in (loader.cache.cache_dir / name).iterdir()
    ]
    return not strays and not take_inventory(layout).orphans


async def test_a_model_is_downloaded_once_and_then_found(
    loader: ModelLoaderService, engram: CountingEngram
) -> None:
    spoken: list[str] = []
    path = await loader.load_model("tiny", "1", spoken.append)
    again = await loader.load_model("tiny", "1")

    assert path == again == loader.cache.cache_dir / "tiny" / "1"
    assert (path / "weights/part.bin").read_bytes() == CONTENT["weights/part.bin"]
    assert engram.downloads == 1
    assert spoken[-1] == "downloading the model, 100 %"
    assert nothing_left_behind(loader)


async def test_many_who_ask_at_once_share_one_download(
    loader: ModelLoaderService, engram: CountingEngram
) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(loader.load_model("tiny", "1"))

    assert engram.downloads == 1


async def test_two_workers_that_share_a_cache_download_once(
    loader: ModelLoaderService, genome: Genome, engram: CountingEngram
) -> None:
    other = ModelLoaderService(loader.settings, genome, engram)
    engram.gate.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(loader.load_model("tiny", "1"))
        group.create_task(other.load_model("tiny", "1"))
        async with asyncio.timeout(5):
            await engram.began.wait()
        engram.gate.set()

    assert engram.downloads == 1


@pytest.mark.parametrize("damage", ["other bytes", "shorter", "missing"])
async def test_damage_is_found_and_nothing_is_kept(
    tmp_path: Path, loader: ModelLoaderService, damage: str
) -> None:
    file = tmp_path / "engram/mnemos-models/tiny/1/weights/part.bin"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"y" * (5000 if damage == "other bytes" else 4999))

    with pytest.raises(ArtifactCorruptError, match=r"weights/part\.bin"):
        await loader.load_model("tiny", "1")

    assert nothing_left_behind(loader)
    assert loader.cache.get("tiny:1") is None


async def test_what_is_damaged_in_the_store_is_fetched_once_until_it_is_mended(
    tmp_path: Path, loader: ModelLoaderService, engram: CountingEngram
) -> None:
    store(tmp_path / "engram", CONTENT | {"config.json": b"[]"})
    for _ in range(3):
        with pytest.raises(ArtifactCorruptError, match=r"config\.json"):
            await loader.load_model("tiny", "1")
    assert engram.downloads == 1

    store(tmp_path / "engram", CONTENT)
    await loader.load_model("tiny", "1")

    assert engram.downloads == 2


async def test_a_cancelled_download_leaves_nothing(
    loader: ModelLoaderService, engram: CountingEngram
) -> None:
    engram.gate.clear()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(loader.load_model("tiny", "1"))
        async with asyncio.timeout(5):
            await engram.began.wait()
        task.cancel()

    assert nothing_left_behind(loader)
    assert loader.cache.get("tiny:1") is None


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (ArtifactCache, "hold"),
        (ArtifactCache, "begin"),
        (Load, "salvage"),
        (Load, "claim"),
        (Load, "adopt"),
        (Load, "finish"),
        (ArtifactCache, "usage"),
    ],
)
async def test_a_load_that_is_cancelled_at_any_step_holds_nothing(
    tmp_path: Path,
    genome: Genome,
    engram: CountingEngram,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    step: str,
) -> None:
    settings = Settings(model_cache_dir=tmp_path / "cache")
    loader = ModelLoaderService(settings, genome, engram, WorkerMetrics())
    loop = asyncio.get_running_loop()
    original = getattr(owner, step)
    was_cancelled = threading.Event()

    def cancel() -> None:
        task.cancel()
        loop.call_soon(loop.call_soon, was_cancelled.set)  # once the task has heard of it

    def cancelled_meanwhile(self: Any, *given: Any) -> Any:
        if not was_cancelled.is_set():
            loop.call_soon_threadsafe(cancel)
            assert was_cancelled.wait(10)
        return original(self, *given)

    monkeypatch.setattr(owner, step, cancelled_meanwhile)
    task = loop.create_task(loader.load_model("tiny", "1"))
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await asyncio.to_thread(was_cancelled.wait, 10)
    loader.cache.artifacts.prune(0)
    assert loader.cache.artifacts.entries() == [], "somebody still holds it"
    assert (await loader.load_model("tiny", "1")).exists()
    assert nothing_left_behind(loader)


async def test_another_digest_is_fetched_anew(
    tmp_path: Path, loader: ModelLoaderService, genome: Genome
) -> None:
    path = await loader.load_model("tiny", "1")
    changed = CONTENT | {"config.json": b'{"changed": true}'}
    store(tmp_path / "engram", changed)
    genome.models["tiny:1"] = describe(changed)

    await loader.load_model("tiny", "1")

    assert (path / "config.json").read_bytes() == changed["config.json"]
    assert nothing_left_behind(loader)


async def test_only_what_is_missing_is_fetched_anew(
    loader: ModelLoaderService, engram: CountingEngram
) -> None:
    path = await loader.load_model("tiny", "1")
    engram.fetched.clear()
    (path / "weights/part.bin").unlink()  # its blob is still here
    await loader.load_model("tiny", "1")
    assert engram.fetched == []
    assert (path / "weights/part.bin").read_bytes() == CONTENT["weights/part.bin"]

    sha256 = hashlib.sha256(CONTENT["config.json"]).hexdigest()
    (path / "config.json").unlink()
    loader.cache.artifacts.layout.blob(sha256).unlink()
    await loader.load_model("tiny", "1")

    assert engram.fetched == ["tiny/1/config.json"]
    assert (path / "config.json").read_bytes() == CONTENT["config.json"]
    assert nothing_left_behind(loader)


async def test_a_version_with_one_changed_file_fetches_only_that(
    tmp_path: Path, loader: ModelLoaderService, genome: Genome, engram: CountingEngram
) -> None:
    first = await loader.load_model("tiny", "1")
    engram.fetched.clear()
    changed = CONTENT | {"config.json": b'{"second": true}'}
    store(tmp_path / "engram", changed, "tiny/2")
    genome.models["tiny:2"] = describe(changed, "tiny/2")

    second = await loader.load_model("tiny", "2")

    assert engram.fetched == ["tiny/2/config.json"]
    assert (second / "config.json").read_bytes() == changed["config.json"]
    assert (first / "config.json").read_bytes() == CONTENT["config.json"]
    assert (first / "weights/part.bin").samefile(second / "weights/part.bin")


async def test_a_model_in_use_has_its_digest_and_is_held(
    loader: ModelLoaderService, genome: Genome
) -> None:
    async with loader.using("tiny", "1") as model:
        assert model.digest == parse_manifest(genome.models["tiny:1"], "tiny", "1").digest
        assert model.digest == await loader.digest("tiny", "1")
        assert loader.cache.artifacts.entries()[0].in_use
    assert not loader.cache.artifacts.entries()[0].in_use


async def test_who_holds_a_model_hears_that_it_was_replaced(
    tmp_path: Path, loader: ModelLoaderService, genome: Genome
) -> None:
    async with loader.using("tiny", "1") as first:
        assert first.is_current()
        changed = CONTENT | {"config.json": b'{"other": true}'}
        store(tmp_path / "engram", changed, "tiny/other")
        genome.models["tiny:1"] = describe(changed, "tiny/other")
        async with loader.using("tiny", "1") as second:
            assert second.digest != first.digest
            assert second.is_current()
            assert not first.is_current()


async def test_genome_down_is_no_reason_to_stop_with_a_cache(
    loader: ModelLoaderService, genome: Genome
) -> None:
    path = await loader.load_model("tiny", "1")
    genome.down = True

    assert await loader.load_model("tiny", "1") == path
    with pytest.raises(StorageUnavailableError):
        await loader.load_model("tiny", "2")


async def test_a_model_that_does_not_exist_is_said_so(loader: ModelLoaderService) -> None:
    with pytest.raises(ModelNotFoundError):
        await loader.load_model("tiny", "99")


async def test_a_model_over_the_limit_is_refused_before_anything_is_fetched(
    tmp_path: Path, genome: Genome, engram: CountingEngram
) -> None:
    settings = Settings(model_cache_dir=tmp_path / "cache", max_model_size_gb=1e-6)

    with pytest.raises(InsufficientResourcesError, match="NEURON_MAX_MODEL_SIZE_GB"):
        await ModelLoaderService(settings, genome, engram).load_model("tiny", "1")
    assert engram.downloads == 0


@pytest.mark.parametrize(
    ("family", "version"),
    [("../x", "1"), ("x", ".."), ("a/b", "1"), ("", "1"), ("x", "1\0"), ("/etc", "1"), (".x", "1")],
)
async def test_names_that_lead_out_of_the_cache_are_refused(
    loader: ModelLoaderService, family: str, version: str
) -> None:
    with pytest.raises(InvalidInputError):
        await loader.load_model(family, version)
    assert not loader.cache.cache_dir.exists() or nothing_left_behind(loader)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../x", "a\\b", "", "a\0b", ".manifest.json"]
)
def test_a_manifest_that_leads_out_of_its_folder_is_refused(path: str) -> None:
    with pytest.raises(ArtifactCorruptError):
        parse_manifest(describe({path: b""}), "tiny", "1")


@pytest.mark.parametrize(
    "change",
    [{"files": []}, {"files": None}, {"files": [{"path": "x"}]}, {"artifact_path": "../x"}],
)
def test_a_manifest_that_says_nothing_sound_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactCorruptError):
        parse_manifest(describe(CONTENT) | change, "tiny", "1")


async def test_a_model_is_fetched_ahead_without_evicting_what_was_used_lately(
    tmp_path: Path, genome: Genome, engram: CountingEngram
) -> None:
    other = {"weights/part.bin": b"y" * 5000}
    store(tmp_path / "engram", other, "other/1")
    genome.models["other:1"] = describe(other, "other/1")
    room_for_one = 40_000 / 2**30  # markers and folders take more than the files
    settings = Settings(model_cache_dir=tmp_path / "cache", cache_budget_gb=room_for_one)
    loader = ModelLoaderService(settings, genome, engram)

    assert await loader.fetch_ahead("tiny", "1", spared_seconds=3600, connections=2)
    assert engram.connections == 2
    assert not await loader.fetch_ahead("tiny", "1", spared_seconds=3600, connections=2)
    with pytest.raises(InsufficientResourcesError):
        await loader.fetch_ahead("other", "1", spared_seconds=3600, connections=2)
    assert await loader.digest("tiny", "1")

    assert await loader.fetch_ahead("other", "1", spared_seconds=-1, connections=2)
    assert await loader.digest("tiny", "1") is None, "it was not used for long, so it went"
