"""From a folder to a list of files: what is taken, what is left out, what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mnemos.engram.digest import manifest_checksum
from mnemos.engram.errors import ArtifactRefusedError, LocalDiskError
from mnemos.engram.files import CHUNK_BYTES
from mnemos.engram.manifest import build_manifest

MakeModel = Callable[[Path], Path]


@pytest.fixture
def model(make_model: MakeModel, tmp_path: Path) -> Path:
    """A sound model in a folder of its own."""
    return make_model(tmp_path / "model")


async def test_a_folder_becomes_a_manifest(model: Path) -> None:
    manifest = await build_manifest(model)
    assert manifest.format == "safetensors"
    paths = [file.path for file in manifest.files]
    assert paths == ["config.json", "model.safetensors", "tokenizer/vocab.txt"]
    vocab = manifest.files[2]
    assert (vocab.size, vocab.sha256) == (4, hashlib.sha256(b"a\nb\n").hexdigest())
    assert manifest.size_bytes == sum(file.size for file in manifest.files)


def test_the_checksum_is_that_of_the_canonical_text() -> None:
    files = [("b", 2, "22"), ("a/ü", 1, "11")]
    text = (
        '{"files":[{"path":"a/ü","sha256":"11","size":1},{"path":"b","sha256":"22","size":2}],'
        '"version":1}'
    )
    expected = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert manifest_checksum(files) == expected
    assert manifest_checksum(reversed(files)) == expected
    assert manifest_checksum([("b", 3, "22"), files[1]]) != expected


async def test_hidden_files_and_excluded_ones_stay_out(model: Path) -> None:
    (model / ".git").mkdir()
    (model / ".git" / "config").write_text("secret")
    (model / ".env").write_text("secret")
    (model / "__pycache__").mkdir()
    (model / "__pycache__" / "x.pyc").write_bytes(b"x")
    (model / "pytorch_model.bin").write_bytes(b"x")
    manifest = await build_manifest(model, exclude=["*.bin", "tokenizer/*"])
    assert [file.path for file in manifest.files] == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pkl", "a.pth", "a.ckpt", "x/opt.pickle"])
async def test_pickles_are_refused_by_name(model: Path, name: str) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"whatever")
    with pytest.raises(ArtifactRefusedError, match="pickle") as caught:
        await build_manifest(model)
    assert name in caught.value.message


async def test_pickles_are_refused_by_content(model: Path) -> None:
    (model / "innocent.dat").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ArtifactRefusedError, match=r"innocent\.dat is a pickle"):
        await build_manifest(model)


async def test_a_checkpoint_of_torch_save_is_refused_and_torchscript_is_not(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    script = tmp_path / "script"
    for folder, members in ((saved, ["m/data.pkl"]), (script, ["m/data.pkl", "m/code/m.py"])):
        folder.mkdir()
        with zipfile.ZipFile(folder / "model.pt", "w") as archive:
            for member in members:
                archive.writestr(member, b"x")
    with pytest.raises(ArtifactRefusedError, match="pickle"):
        await build_manifest(saved)
    assert (await build_manifest(script)).format == "torchscript"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.gguf", b"not gguf"),
        ("model.pt2", b"not a zip"),
        ("empty.safetensors", b""),
        ("text.safetensors", b"<html>not found</html>"),
        ("huge.safetensors", (2**60).to_bytes(8, "little") + b"{}"),
        ("bad.safetensors", (2).to_bytes(8, "little") + b"[]"),
    ],
)
async def test_weights_that_are_not_what_they_say_are_refused(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactRefusedError, match="damaged"):
        await build_manifest(tmp_path)


async def test_a_download_that_was_cut_short_is_refused(model: Path) -> None:
    weights = model / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    with pytest.raises(ArtifactRefusedError, match="damaged"):
        await build_manifest(model)


async def test_a_missing_shard_is_named(model: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ArtifactRefusedError, match=r"names model-2\.safetensors, which is not"):
        await build_manifest(model)


async def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("hello")
    with pytest.raises(ArtifactRefusedError, match="no model"):
        await build_manifest(tmp_path)


async def test_two_kinds_of_weights_are_refused(model: Path) -> None:
    (model / "model.gguf").write_bytes(b"GGUF....")
    with pytest.raises(ArtifactRefusedError, match="gguf, safetensors"):
        await build_manifest(model)


async def test_links_may_not_leave_the_folder(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (model / "link.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactRefusedError, match=r"link\.json is a link that leaves"):
        await build_manifest(model)


async def test_links_inside_the_folder_are_files(model: Path) -> None:
    (model / "again.json").symlink_to("config.json")
    manifest = await build_manifest(model)
    by_path = {file.path: file for file in manifest.files}
    assert by_path["again.json"].sha256 == by_path["config.json"].sha256


@pytest.mark.parametrize("target", ["nowhere", "loop", "tokenizer", "."])
async def test_strange_links_are_refused(model: Path, target: str) -> None:
    (model / "loop").symlink_to(target)
    with pytest.raises(ArtifactRefusedError, match="loop is a link"):
        await build_manifest(model)


async def test_special_files_are_refused(model: Path) -> None:
    os.mkfifo(model / "pipe")
    with pytest.raises(ArtifactRefusedError, match="pipe"):
        async with asyncio.timeout(5):
            await build_manifest(model)


@pytest.mark.parametrize("name", ["back\\slash.txt", "new\nline.txt", "part#12"])
async def test_names_that_no_storage_takes_are_refused(model: Path, name: str) -> None:
    (model / name).write_text("x")
    with pytest.raises(ArtifactRefusedError, match="not allowed"):
        await build_manifest(model)


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match="No such file"):
        await build_manifest(tmp_path / "nope")
    (tmp_path / "file").write_text("x")
    with pytest.raises(LocalDiskError, match="Not a directory"):
        await build_manifest(tmp_path / "file")


async def test_progress_adds_up(model: Path) -> None:
    (model / "long.txt").write_bytes(b"x" * (CHUNK_BYTES + 1))
    steps: list[int] = []
    manifest = await build_manifest(model, on_bytes=steps.append)
    assert sum(steps) == manifest.size_bytes
    assert len(steps) == 5


async def test_cancelling_stops_the_hashing(model: Path) -> None:
    big = model / "big.txt"
    with big.open("wb") as file:
        file.truncate(1 << 33)  # a hole: no disk is used, and hashing it would take seconds
    begun = asyncio.Event()
    counted: list[int] = []

    def on_bytes(count: int) -> None:
        counted.append(count)
        begun.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(build_manifest(model, on_bytes=on_bytes))
        await begun.wait()
        task.cancel()
    assert task.cancelled()
    # The pool's threads are joined here: a hash that went on would take until its end.
    async with asyncio.timeout(5):
        await asyncio.get_running_loop().shutdown_default_executor()
    assert sum(counted) < 1 << 33
