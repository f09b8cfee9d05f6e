"""Tiny custom PyTorch models in every form that a worker takes, for tests."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import time
import warnings
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
from torch import nn

FEATURES, CLASSES, VOCABULARY = 4, 3, 50
LABELS = ["cat", "dog", "bird"]
INPUT = {"name": "x", "dtype": "float32", "shape": [-1, FEATURES]}
OUTPUT = {"name": "logits", "dtype": "float32", "shape": [-1, CLASSES]}
SIGNATURE: dict[str, Any] = {"inputs": [INPUT], "outputs": [OUTPUT]}
TEXT_SIGNATURE: dict[str, Any] = {
    "inputs": [
        {"name": "input_ids", "dtype": "int64", "shape": [-1, -1], "pad": 0,
         "minimum": 0, "maximum": VOCABULARY - 1},
        {"name": "attention_mask", "dtype": "int64", "shape": [-1, -1], "pad": 0},
    ],
    "outputs": [{**OUTPUT, "labels": LABELS}],
    "text": {"max_tokens": 16},
}  # fmt: skip
ENTRY_POINT = "tiny-mlp"
TROUBLE = "tiny-trouble"


class TinyMLP(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Four numbers in, three out."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, hidden)
        self.second = nn.Linear(hidden, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class TinyText(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """The mean of the words' vectors, made into three scores."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 8)
        self.scores = nn.Linear(8, CLASSES)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.unsqueeze(-1).to(torch.float32)
        return self.scores((self.words(input_ids) * mask).sum(1) / mask.sum(1))


class Order(IntEnum):
    """What Trouble is told by a row's first number; the second says how much of it."""

    HANG = 1001
    HOLD_GIL = 1002
    """Hang so that no other thread of the process runs either."""
    SEGFAULT = 1003
    ALLOCATE = 1004
    """So many MiB, for good."""
    SPAWN = 1005
    """Three processes that last so many seconds: a child, its child, and one in its own session."""
    SLOW = 1006
    """So many seconds a call."""


class Trouble(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Computes rows as TinyMLP does, unless a row's first number is an order."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.model = TinyMLP(hidden)
        self.held: list[bytes] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for order, amount, *_ in x.tolist():
            self._obey(int(order), amount)
        return self.model(x)

    def _obey(self, order: int, amount: float) -> None:
        match order:
            case Order.HANG:
                time.sleep(3600)
            case Order.HOLD_GIL:
                ctypes.PyDLL(None).sleep(3600)
            case Order.SEGFAULT:
                ctypes.string_at(0)
            case Order.ALLOCATE:
                self.held.append(os.urandom(1 << 20) * int(amount))
            case Order.SPAWN:
                subprocess.Popen(["sleep", str(amount)], start_new_session=True)
                subprocess.Popen(["sh", "-c", f"sleep {amount} & wait"])
            case Order.SLOW:
                time.sleep(amount)


class FileWriter(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Writes a file when it is called, in TorchScript's own language."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.path)
        return x[:, :3]


def seeded(make: Any, *arguments: Any) -> Any:
    """A module with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(*arguments).eval()


def write_signature(folder: Path, signature: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "signature.json").write_text(json.dumps(signature))
    return folder


def write_exported(
    folder: Path,
    model: Any = None,
    signature: dict[str, Any] | None = None,
    example: tuple[Any, ...] | None = None,
    dynamic: Any = None,
) -> Path:
    """A model.pt2 whose batch has any size, unless `dynamic` says otherwise."""
    model = seeded(TinyMLP) if model is None else model
    example = (torch.zeros(2, FEATURES),) if example is None else example
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in example) if dynamic is None else dynamic
    program = torch.export.export(model, example, dynamic_shapes=shapes or None)
    write_signature(folder, signature or SIGNATURE)
    torch.export.save(program, folder / "model.pt2")
    return folder


def write_text_model(folder: Path, signature: dict[str, Any] | None = None) -> Path:
    """A classifier of texts: an exported program and its tokenizer."""
    ids, mask = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    model = seeded(TinyText)
    write_exported(folder, model, signature or TEXT_SIGNATURE, (ids, mask), (sizes, sizes))
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ("[pad]", "[unk]", "the", "a", "cat", "dog", "bird", "sings", "barks", "loud")
    vocabulary = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def write_script(folder: Path, model: Any = None, signature: dict[str, Any] | None = None) -> Path:
    write_signature(folder, signature or SIGNATURE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.script(seeded(TinyMLP) if model is None else model)
        script.save(str(folder / "model.pt"))
    return folder


def write_weights(
    folder: Path, signature: dict[str, Any] | None = None, entry_point: str = ENTRY_POINT
) -> Path:
    """Safetensors for the class behind the entry point."""
    from safetensors.torch import save_file

    named = {"model": {"class": entry_point, "arguments": {"hidden": 8}}}
    write_signature(folder, {**(signature or SIGNATURE), **named})
    model = seeded(Trouble if entry_point == TROUBLE else TinyMLP)
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def install_entry_point(site: Path) -> Path:
    """What pip leaves of a package with the entry points; `site` belongs on the path."""
    info = site / "tiny_models-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-models\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[neuron.pytorch_models]\n"
        f"{ENTRY_POINT} = tiny_torch:TinyMLP\n{TROUBLE} = tiny_torch:Trouble\n"
    )
    return site


def rewrite_archive(path: Path, change: Any) -> None:
    """Write a torch archive again; `change(name, data)` gives each record's new data."""
    reader = torch._C.PyTorchFileReader(str(path))
    names = [name for name in reader.get_all_records() if not name.startswith(".data/")]
    records = {name: reader.get_record(name) for name in names}
    written = ("version", "byteorder")  # the writer adds these by itself
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, data in records.items():
        if name not in written:
            new = change(name, data)
            writer.write_record(name, new, len(new))
    writer.write_end_of_file()


def rewrite_program(path: Path, change: Any) -> None:
    """Change an exported program's model.json in place."""

    def edit(name: str, data: bytes) -> bytes:
        if name != "models/model.json":
            return data
        program = json.loads(data)
        change(program)
        return json.dumps(program).encode()

    rewrite_archive(path, edit)
