"""Small files that are what they say, and some that are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

MakeModel = Callable[[Path], Path]


@pytest.fixture
def make_model() -> MakeModel:
    """Fill a folder with a tiny, sound safetensors model."""

    def make(folder: Path) -> Path:
        (folder / "tokenizer").mkdir(parents=True)
        header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
        weights = len(header).to_bytes(8, "little") + header + b"1234"
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "config.json").write_text("{}")
        (folder / "tokenizer" / "vocab.txt").write_text("a\nb\n")
        return folder

    return make
