"""Pickles that an operator allows: what they would call decides."""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest

from mnemos.engram.errors import ArtifactRefusedError, MissingExtraError
from mnemos.engram.manifest import scan_folder
from mnemos.engram.pickles import scan_pickles
from mnemos.engram.publish import prepare

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)


class Call:
    """Pickles as a call of `called`."""

    def __init__(self, called: Callable[..., object], *arguments: object) -> None:
        self._call = (called, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


class Strange:
    """A class that nobody knows."""


def scan(tmp_path: Path, data: bytes, name: str = "model.bin") -> list[str]:
    (tmp_path / name).write_bytes(data)
    found: list[str] = scan_pickles({name: tmp_path / name})["names"]
    return found


def archive(*members: tuple[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as target:
        for name, data in members:
            target.writestr(name, data)
    return written.getvalue()


def test_weights_are_harmless(tmp_path: Path) -> None:
    data = pickle.dumps(OrderedDict(a=[1, 2.0, {"b"}]), 2)
    assert scan(tmp_path, data) == ["__builtin__.set", "collections.OrderedDict"]
    assert scan(tmp_path, archive(("m/data.pkl", data), ("m/data/0", b"1234"))) != []
    old_torch = MAGIC + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + data + pickle.dumps([], 2)
    assert "collections.OrderedDict" in scan(tmp_path, old_torch + b"raw bytes of a tensor")


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_a_call_of_the_system_is_named(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"weights": Call(os.system, "true")}, protocol)
    with pytest.raises(ArtifactRefusedError, match=r"model\.bin is a dangerous pickle.*posix"):
        scan(tmp_path, data)
    with pytest.raises(ArtifactRefusedError, match=r"posix\.system"):
        scan(tmp_path, archive(("m/data.pkl", data)))


@pytest.mark.parametrize(
    "data",
    [
        b"cimportlib\nimport_module\n(Vos\ntR.",  # what no list of dangers knows
        b"cnumpy\nload\n(Vx\ntR.",
        b"cbuiltins\ngetattr\n.",
        pickle.dumps(Strange()),
        # What is on the stack is another thing than the last text before the PUT.
        b"Vos\nVsystem\nVcollections\n0p0\n0g0\nVsystem\n\x93.",
        b"cnumpy\nprod.a\np0\nVsystem\n\x93.",
        b"ctorch\nos.system\n(Vtrue\ntR.",
        b"ctorch.nn.modules.module\ntorch.os.system\n.",
    ],
)
def test_what_is_not_known_to_be_harmless_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ArtifactRefusedError, match=r"not known to be harmless|dangerous pickle"):
        scan(tmp_path, data)


def test_a_second_pickle_is_not_read_with_the_memory_of_the_first(tmp_path: Path) -> None:
    first = b"\x80\x04\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93."
    second = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93\x8c\x04true\x85R."
    with pytest.raises(ArtifactRefusedError, match=r"would call os\.system"):
        scan(tmp_path, first + second)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"words",
        pickle.dumps([1, 2, 3])[:-1],
        pickle.dumps([1, 2, 3]) + b"more",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        archive(("m/data.pkl", b"words")),
        archive(("m/other", b"words")),
        b"tar archive" + bytes(501),
    ],
)
def test_what_cannot_be_scanned_to_its_end_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ArtifactRefusedError, match=r"cannot be scanned|is not scanned"):
        scan(tmp_path, data)


async def test_an_allowed_pickle_makes_the_model_one(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(pickle.dumps({"w": 1}))
    (tmp_path / "signature.json").write_text("{}")
    with pytest.raises(ArtifactRefusedError, match="is a pickle"):
        await prepare(tmp_path)
    prepared = await prepare(tmp_path, allow_pickle=True)
    assert prepared.manifest.format == "pickle"
    assert prepared.pickles is not None
    assert prepared.pickles["files"] == ["model.pth"]
    assert prepared.pickles["scanner"].startswith("picklescan 1.")


def test_the_package_that_scans_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "picklescan", None)
    with pytest.raises(MissingExtraError, match=r"mnemos-neuron\[pickles\]"):
        scan(tmp_path, pickle.dumps({}))


def test_what_torch_writes_is_told_apart(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    for folder, value, is_zip in (
        ("weights", layers.state_dict(), True),
        ("old", layers.state_dict(), False),
        ("module", layers, True),
    ):
        path = tmp_path / folder / "model.pt"
        path.parent.mkdir()
        torch.save(value, path, _use_new_zipfile_serialization=is_zip)
        assert scan_folder(path.parent, allow_pickle=True).format == "pickle"
        assert "collections.OrderedDict" in scan_pickles({"model.pt": path})["names"]
    script = tmp_path / "script" / "model.pt"
    script.parent.mkdir()
    exported = torch.export.export(layers, (torch.zeros(1, 2),))
    torch.export.save(exported, script.with_suffix(".pt2"))
    assert scan_folder(script.parent).format == "torch_export"
