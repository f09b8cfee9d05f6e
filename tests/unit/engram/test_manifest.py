"""From a folder to a list of files: what is taken, what is left out, what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mnemos.engram.digest import manifest_checksum
from mnemos.engram.errors import ArtifactRefusedError, LocalDiskError
from mnemos.engram.files import CHUNK_BYTES
from mnemos.engram.manifest import build_manifest

MakeModel = Callable[[Path], Path]

GGUF = b"GGUF" + (3).to_bytes(4, "little") + bytes(16)
"""A whole GGUF file of no tensors and no keys."""


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
        ("model.gguf", b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16),
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


def safetensors(tensors: dict[str, object] | bytes, data: bytes) -> bytes:
    header = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return len(header).to_bytes(8, "little") + header + data


def tensor(start: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> object:
    return {"dtype": dtype, "shape": shape or [end - start], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"a": tensor(0, 3), "b": tensor(2, 4)}, "overlaps"),
        ({"a": tensor(0, 2), "b": tensor(3, 4)}, "gap"),
        ({"a": tensor(0, 2)}, "take 2 bytes, and 4"),
        ({"a": tensor(0, 4, "F32", [2])}, "type and shape"),
        ({"a": tensor(-4, 4)}, "cannot be read"),
        ({"a": tensor(0, 4, "U8", [-2, -2])}, "cannot be read"),
        (b'{"a":{},"a":{}}', "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
    ],
)
async def test_a_safetensors_header_that_lies_is_refused(
    tmp_path: Path, tensors: dict[str, object] | bytes, why: str
) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors(tensors, b"1234"))
    with pytest.raises(ArtifactRefusedError, match=why):
        await build_manifest(tmp_path)


async def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header_bytes = 100 * 1024 * 1024 + 1
    path.write_bytes(header_bytes.to_bytes(8, "little"))
    os.truncate(path, 8 + header_bytes)  # a hole: no disk is used
    with pytest.raises(ArtifactRefusedError, match="the most that is read"):
        await build_manifest(tmp_path)


async def test_an_index_must_agree_with_its_shards(model: Path) -> None:
    index = {"weight_map": {"w": "model.safetensors", "other": "model.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ArtifactRefusedError, match=r"holds 'other', and it does not"):
        await build_manifest(model)


async def test_a_gguf_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    info = (1).to_bytes(8, "little") + b"w" + (1).to_bytes(4, "little")
    info += (8).to_bytes(8, "little") + (0).to_bytes(4, "little") + (0).to_bytes(8, "little")
    header = b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") + bytes(8) + info
    whole = header + bytes(-len(header) % 32) + bytes(32)
    path = tmp_path / "model.gguf"
    path.write_bytes(whole)
    assert (await build_manifest(tmp_path)).format == "gguf"
    path.write_bytes(whole[:-1])
    with pytest.raises(ArtifactRefusedError, match="cut short"):
        await build_manifest(tmp_path)
    path.rename(tmp_path / "model.bin")
    with pytest.raises(ArtifactRefusedError, match="cut short"):
        await build_manifest(tmp_path)
    (tmp_path / "model.bin").write_bytes(whole)
    with pytest.raises(ArtifactRefusedError, match=r"call it model\.gguf"):
        await build_manifest(tmp_path)


def write_archive(path: Path, *members: str) -> None:
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name twice
        for member in members:
            archive.writestr(member, member.encode())


SCRIPT = ("m/data.pkl", "m/code/m.py")


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ((*SCRIPT, "m/archive_format"), "at once"),
        ((*SCRIPT, "m/CODE/m.py"), "twice"),
        ((*SCRIPT, "m/code/m.py"), "twice"),
        ((*SCRIPT, "m/../../x"), "leaves the archive"),
        (("m/archive_format", "m/models/model.json"), r"call it model\.pt2"),
    ],
)
async def test_an_archive_that_is_several_things_is_refused(
    tmp_path: Path, members: tuple[str, ...], why: str
) -> None:
    write_archive(tmp_path / "model.pt", *members)
    with pytest.raises(ArtifactRefusedError, match=why):
        await build_manifest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"m/code/m.py", b"m/evil/m.py", 1),
        lambda data: data + b"more",
        lambda data: data[:-2] + b"\x04\x00note",
        lambda data: data[:-30],
        lambda data: b"\x80\x02." + data,
    ],
)
async def test_an_archive_that_reads_two_ways_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "model.pt"
    write_archive(path, *SCRIPT)
    assert (await build_manifest(tmp_path)).format == "torchscript"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ArtifactRefusedError, match=r"damaged|pickle"):
        await build_manifest(tmp_path)


async def test_an_archive_that_hides_a_member_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        for member in ("m/hidden.py", *SCRIPT):
            archive.writestr(member, b"x")
        archive.filelist.pop(0)
    with pytest.raises(ArtifactRefusedError, match="overlap or hide something"):
        await build_manifest(tmp_path)


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
    (model / "model.gguf").write_bytes(GGUF)
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


async def test_a_snapshot_of_the_hubs_cache_is_a_folder(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    repository = cache / "models--org--name"
    snapshot = repository / "snapshots" / ("c" * 40)
    (repository / "blobs").mkdir(parents=True)
    (cache / "blobs" / "ab").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (model / "config.json").rename(repository / "blobs" / "1")
    (model / "model.safetensors").rename(cache / "blobs" / "ab" / "2")
    (repository / "blobs" / "2").symlink_to("../../blobs/ab/2")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    (snapshot / "model.safetensors").symlink_to("../../blobs/2")
    manifest = await build_manifest(snapshot)
    assert [file.path for file in manifest.files] == ["config.json", "model.safetensors"]
    snapshot.parent.rename(tmp_path / "models")
    with pytest.raises(ArtifactRefusedError, match="is a link that"):
        await build_manifest(tmp_path / "models" / ("c" * 40))


async def test_special_files_are_refused(model: Path) -> None:
    os.mkfifo(model / "pipe")
    with pytest.raises(ArtifactRefusedError, match="pipe is a pipe"):
        async with asyncio.timeout(5):
            await build_manifest(model)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("back\\slash.txt", "backslash"),
        ("new\nline.txt", "control character"),
        ("\u202egnp.txt", "control character"),
        ("part#12", "unfinished"),
        ("cafe\u0301.txt", "NFC"),
        ("\uff43onfig.txt", "only looks like"),
        ("\u0441onfig.txt", "mixes Cyrillic and Latin"),
        ("CONFIG.json", "upper and lower case"),
        ("Tokenizer/other.txt", "upper and lower case"),
        (b"not-\xff-unicode", "control character"),
    ],
)
async def test_names_that_mislead_or_that_no_storage_takes_are_refused(
    model: Path, name: str | bytes, why: str
) -> None:
    path = model / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    with pytest.raises(ArtifactRefusedError, match=f"not allowed.*{why}"):
        await build_manifest(model)


async def test_names_in_any_one_script_are_fine(model: Path) -> None:
    for name in ("модель.txt", "模型.txt", "Ω.txt", "caf\u00e9.txt"):
        (model / name).write_text("x")
    assert len((await build_manifest(model)).files) == 7


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
