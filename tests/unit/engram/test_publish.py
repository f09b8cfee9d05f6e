"""Pushing a folder: what lies in the storage afterwards, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mnemos.engram.errors import ArtifactRefusedError, InvalidKeyError
from mnemos.engram.publish import Description, PushProgress, push_directory
from mnemos.engram.store import ObjectStore

MakeModel = Callable[[Path], Path]


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """An empty storage in a folder that does not exist yet."""
    return ObjectStore.from_url((tmp_path / "a storage").as_uri())


@pytest.fixture
def model(make_model: MakeModel, tmp_path: Path) -> Path:
    """A sound model in a folder of its own."""
    return make_model(tmp_path / "model")


async def test_what_is_pushed_can_be_fetched_by_its_description(
    store: ObjectStore, model: Path
) -> None:
    progress: list[PushProgress] = []
    description = Description(tags=["tiny"], capabilities=["chat"], min_ram_gb=0.5)
    body = await push_directory(
        store, model, "tiny", "1.0", description, on_progress=progress.append
    )
    digest = body["artifact"]["checksum"].removeprefix("sha256:")
    assert body["artifact_path"] == f"tiny/1.0/{digest[:16]}"
    assert body["artifact"]["format"] == "safetensors"
    assert (body["tags"], body["requirements"]["min_ram_gb"]) == (["tiny"], 0.5)
    for file in body["files"]:
        key = f"{body['artifact_path']}/{file['path']}"
        assert (await store.head(body["artifact"]["bucket"], key)).size == file["size"]
    assert [step.phase for step in progress] == ["hashing"] * 3 + ["uploading"] * 3
    assert progress[-1].done_bytes == progress[-1].total_bytes == body["artifact"]["size_bytes"]


async def test_a_custom_model_is_told_by_its_signature(store: ObjectStore, model: Path) -> None:
    assert (await push_directory(store, model, "plain", "1"))["runtime"]["type"] == "transformers"
    (model / "signature.json").write_text("{}")
    assert (await push_directory(store, model, "custom", "1"))["runtime"]["type"] == "pytorch"
    said = Description(runtime="vllm")
    assert (await push_directory(store, model, "said", "1", said))["runtime"]["type"] == "vllm"


async def test_other_content_never_touches_what_was_pushed_before(
    store: ObjectStore, model: Path
) -> None:
    first = await push_directory(store, model, "tiny", "1")
    before = {info.key: info for info in await store.list(store.models_bucket)}
    (model / "config.json").write_text('{"other": true}')
    second = await push_directory(store, model, "tiny", "1")
    after = {info.key: info for info in await store.list(store.models_bucket)}
    assert first["artifact_path"] != second["artifact_path"]
    assert {key: after[key] for key in before} == before
    assert len(after) == 6


async def test_a_broken_push_goes_on_where_it_stopped(store: ObjectStore, model: Path) -> None:
    body = await push_directory(store, model, "tiny", "1")
    lost = f"{body['artifact_path']}/config.json"
    kept = f"{body['artifact_path']}/model.safetensors"
    await store.delete(store.models_bucket, lost)
    before = await store.head(store.models_bucket, kept)
    assert await push_directory(store, model, "tiny", "1") == body
    assert await store.head(store.models_bucket, kept) == before, "it was not sent again"
    assert (await store.head(store.models_bucket, lost)).size == 2


async def test_a_refused_folder_uploads_nothing(
    store: ObjectStore, model: Path, tmp_path: Path
) -> None:
    (model / "z.pkl").write_bytes(b"x")
    with pytest.raises(ArtifactRefusedError):
        await push_directory(store, model, "tiny", "1")
    assert not (tmp_path / "a storage").exists()


@pytest.mark.parametrize("content", ["{ }", "{]", ""])
async def test_a_file_that_changes_during_the_push_is_not_stored(
    store: ObjectStore, model: Path, content: str
) -> None:
    def change(step: PushProgress) -> None:
        if step.phase == "hashing" and step.done_bytes == step.total_bytes:
            (model / "config.json").write_text(content)

    with pytest.raises(ArtifactRefusedError, match=r"config\.json changed"):
        await push_directory(store, model, "tiny", "1", on_progress=change)
    stored = {info.key.rsplit("/", 1)[1] for info in await store.list(store.models_bucket)}
    assert "config.json" not in stored


async def test_a_file_that_comes_during_the_push_is_noticed(
    store: ObjectStore, model: Path
) -> None:
    def add(step: PushProgress) -> None:
        if step.phase == "uploading":
            (model / "late.txt").write_text("late")

    with pytest.raises(ArtifactRefusedError, match=r"late\.txt came or went"):
        await push_directory(store, model, "tiny", "1", on_progress=add)


@pytest.mark.parametrize(("family", "version"), [("../x", "1"), ("x", "../1"), ("x", "latest")])
async def test_names_that_leave_are_refused(
    store: ObjectStore, model: Path, family: str, version: str
) -> None:
    with pytest.raises(InvalidKeyError):
        await push_directory(store, model, family, version)
