"""signature.json: what is taken, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuron.errors import InvalidInputError
from neuron.runtimes.pytorch_engine.signature import Signature, read_signature

X = {"name": "x", "dtype": "float32", "shape": [-1, 4]}
Y = {"name": "y", "dtype": "float32", "shape": [-1, 2]}


def write(folder: Path, **fields: Any) -> Path:
    (folder / "signature.json").write_text(json.dumps({"inputs": [X], "outputs": [Y], **fields}))
    return folder


def test_a_plain_one_says_what_it_says(tmp_path: Path) -> None:
    signature = read_signature(write(tmp_path), "m:1")
    assert str(signature.inputs[0]) == "float32 of shape [4]"
    assert signature.fixed_batch is None
    assert signature.inputs[0].fits([4])
    assert not signature.inputs[0].fits([5])
    assert not signature.inputs[0].fits([4, 4])


def test_minus_one_is_any_size(tmp_path: Path) -> None:
    free = {**X, "shape": [3, -1, 2]}
    signature = read_signature(write(tmp_path, inputs=[free]), "m:1")
    assert signature.fixed_batch == 3
    assert str(signature.inputs[0]) == "float32 of shape [any, 2]"
    assert signature.inputs[0].fits([0, 2])


def test_a_missing_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"m:1 has no signature\.json"):
        read_signature(tmp_path, "m:1")


def test_one_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "signature.json").write_bytes(b"\x80\x02")
    with pytest.raises(InvalidInputError, match=r"signature\.json of m:1 is wrong"):
        read_signature(tmp_path, "m:1")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"inputs": []}, "inputs"),
        ({"inputs": [{**X, "dtype": "complex64"}]}, r"inputs\.0\.dtype"),
        ({"inputs": [{**X, "shape": [-2]}]}, r"inputs\.0\.shape\.0"),
        ({"inputs": [{**X, "shape": []}]}, r"inputs\.0\.shape"),
        ({"inputs": [{**X, "name": "x()"}]}, r"inputs\.0\.name"),
        ({"inputs": [X, X]}, "inputs names x twice"),
        ({"inputs": [X, {**X, "name": "z", "shape": [2, 4]}]}, "the same for every input"),
        ({"inputs": [{**X, "shape": [0, 4]}]}, "the same for every input"),
        ({"inputs": [{**X, "dtype": "int64", "pad": 0.5}]}, "pad is 0.5"),
        ({"inputs": [{**X, "pad": 0}], "outputs": [{**Y, "shape": [-1, -1]}]}, "pad needs outputs"),
        ({"outputs": [{**Y, "labels": ["a", "b", "c"]}]}, "3 labels do not fit"),
        ({"outputs": [{**Y, "top_k": 1}]}, "top_k goes with labels"),
        ({"outputs": [{**Y, "labels": ["a", "b"], "encoding": "base64"}]}, "not encoded"),
        ({"model": {"class": "c", "module": "os"}}, "model.module"),
        ({"handler": "handler.py"}, "handler"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        read_signature(write(tmp_path, **fields), "m:1")


def test_the_class_is_only_a_name() -> None:
    signature = Signature.model_validate(
        {"inputs": [X], "outputs": [Y], "model": {"class": "c", "arguments": {"n": 1}}}
    )
    assert signature.model is not None
    assert (signature.model.name, signature.model.arguments) == ("c", {"n": 1})
