"""JSON to tensors and back, with every way to be wrong."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuron.errors import InvalidInputError
from neuron.runtimes.pytorch_engine.labels import label_scores
from neuron.runtimes.pytorch_engine.signature import InputSpec, OutputSpec, Signature
from neuron.runtimes.pytorch_engine.tensors import read_row, read_tensor, to_json


def spec(dtype: str = "float32", *shape: int, **more: Any) -> InputSpec:
    return InputSpec.model_validate({"name": "x", "dtype": dtype, "shape": [-1, *shape], **more})


def output(dtype: str = "float32", *shape: int, **more: Any) -> OutputSpec:
    return OutputSpec.model_validate({"name": "y", "dtype": dtype, "shape": [-1, *shape], **more})


def b64(tensor: torch.Tensor, **changed: Any) -> dict[str, Any]:
    raw = bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())
    name = str(tensor.dtype).removeprefix("torch.")
    whole = {
        "b64": base64.b64encode(raw).decode(), "dtype": name, "shape": list(tensor.shape),
    }  # fmt: skip
    return whole | changed


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ([1, 2, 3], spec("float32", 3)),
        ([1.5, 2, 3], spec("float64", 3)),
        ([1, 2, 3], spec("uint8", -1)),
        ([True, False], spec("bool", 2)),
        ([[1, 2], [3, 4]], spec("int64", 2, -1)),
        (7, spec("int32")),
        (7.5, spec("float16")),
        ([], spec("int64", -1)),
        ([[], []], spec("float32", 2, 0)),
    ],
)
def test_arrays_become_what_the_signature_says(value: Any, wanted: InputSpec) -> None:
    tensor = read_tensor(value, wanted, "x")
    assert tensor.dtype == wanted.torch_dtype
    assert tensor.tolist() == value


def test_a_double_keeps_its_digits() -> None:
    assert read_tensor([0.1], spec("float64", 1), "x").tolist() == [0.1]


@pytest.mark.parametrize(
    ("value", "wanted", "words"),
    [
        ([1, 2], spec("float32", 4), r"expected float32 of shape \[4\], got shape \[2\]"),
        ([[1, 2]], spec("float32", 2), r"got shape \[1, 2\]"),
        (1, spec("float32", 2), r"got shape \[\]"),
        ([1.5], spec("int64", 1), r"expected int64 of shape \[1\], got numbers of shape \[1\]"),
        ([True], spec("float32", 1), "got booleans"),
        ([1], spec("bool", 1), "got whole numbers"),
        ([300], spec("uint8", 1), "a number out of its range"),
        ([-1], spec("uint8", 1), "a number out of its range"),
        ([1e6], spec("float16", 1), "a number out of its range"),
        ([2**70], spec("int64", 1), "a number out of its range"),
        ([math.nan], spec("float32", 1), "a number out of its range"),
        ([[1, 2], [3]], spec("float32", -1, -1), "lists of different lengths"),
        ([[1, 2], 3], spec("float32", -1, -1), "lists of different lengths"),
        (["a"], spec("float32", 1), "got text"),
        ("a", spec("float32", 1), "got text"),
        (None, spec("float32", 1), "got null"),
        ([None], spec("float32", 1), "a null among the numbers"),
        ([{"a": 1}], spec("float32", 1), "an object among the numbers"),
        ([5], spec("int64", 1, maximum=4), "got 5, above the maximum 4"),
        ([-1], spec("int64", 1, minimum=0), "got -1, below the minimum 0"),
        ({}, spec("float32", 1), "an object with nothing"),
        ({"engram": "bucket/key"}, spec("float32", 1), "does not fetch inputs from ENGRAM"),
        (b64(torch.ones(2)), spec("float32", 1), r"got shape \[2\]"),
        (b64(torch.ones(1)), spec("float64", 1), "got dtype float32"),
        (b64(torch.ones(1), shape=[-1]), spec("float32", 1), "got the shape"),
        (b64(torch.ones(1), shape=[True]), spec("float32", 1), "got the shape"),
        (b64(torch.ones(1), b64="*"), spec("float32", 1), "not base64"),
        (b64(torch.ones(1), b64=7), spec("float32", 1), "not base64"),
        (b64(torch.ones(1), b64="AAAA"), spec("float32", 1), "3 bytes where"),
        (b64(torch.ones(1, dtype=torch.bool), b64="Ag=="), spec("bool", 1), "neither 0 nor 1"),
        (b64(torch.ones(1), dtype=[]), spec("float32", 1), "got dtype"),
    ],
)
def test_every_refusal_names_the_input_what_was_expected_and_what_came(
    value: Any, wanted: InputSpec, words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words) as caught:
        read_tensor(value, wanted, "inputs[3].x")
    assert caught.value.message.startswith("inputs[3].x: ")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "int64"])
def test_base64_there_and_back(dtype: str) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    there = read_tensor(b64(tensor), spec(dtype, 2, -1), "x")
    assert torch.equal(there, tensor)
    back, strange = to_json(there, output(dtype, 2, 3, encoding="base64"))
    assert back == b64(tensor)
    assert strange == 0


def test_empty_base64() -> None:
    whole = {"b64": "", "dtype": "float32", "shape": [0, 3]}
    assert read_tensor(whole, spec("float32", -1, 3), "x").shape == (0, 3)
    assert to_json(torch.empty(0, 3), output("float32", 0, 3, encoding="base64"))[0] == whole


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["b64", "dtype", "shape", "engram", "z"]), inner)
    ),
    max_leaves=12,
)


@given(json_values, st.sampled_from(["float32", "float16", "int64", "uint8", "bool"]))
def test_whatever_comes_is_a_fitting_tensor_or_refused(value: Any, dtype: str) -> None:
    wanted = spec(dtype, -1)
    try:
        tensor = read_tensor(value, wanted, "x")
    except InvalidInputError:
        return
    assert tensor.dtype == wanted.torch_dtype
    assert tensor.dim() == 1


def test_rows_have_all_inputs_and_no_others() -> None:
    signature = Signature.model_validate(
        {
            "inputs": [spec("float32", 1).model_dump(), {**spec("bool").model_dump(), "name": "z"}],
            "outputs": [output().model_dump()],
        }
    )
    assert set(read_row({"x": [1], "z": True}, signature, "inputs[0]")) == {"x", "z"}
    with pytest.raises(InvalidInputError, match=r"inputs\[0\]\.z is missing: expected bool"):
        read_row({"x": [1]}, signature, "inputs[0]")
    with pytest.raises(InvalidInputError, match=r"no input 'q' \(it reads x, z\)"):
        read_row({"x": [1], "z": True, "q": 1}, signature, "inputs[0]")


def test_numbers_that_json_lacks_are_spelled_out() -> None:
    tensor = torch.tensor([[1.0, math.nan], [math.inf, -math.inf]])
    values, strange = to_json(tensor, output("float32", 2, 2))
    assert values == [[1.0, "NaN"], ["Infinity", "-Infinity"]]
    assert strange == 3
    json.dumps(values, allow_nan=False)
    assert to_json(torch.tensor(math.nan), output()) == ("NaN", 1)


def test_labels_come_with_their_scores_best_first() -> None:
    labelled = output("float32", 3, labels=["a", "b", "c"])
    told, strange = label_scores(torch.tensor([0.0, 2.0, 1.0]), labelled)
    assert [one["label"] for one in told] == ["b", "c", "a"]
    assert math.isclose(sum(one["score"] for one in told), 1)
    assert strange == 0
    best = labelled.model_copy(update={"top_k": 1, "activation": "sigmoid"})
    told, _ = label_scores(torch.tensor([0.0, 2.0, 1.0]), best)
    assert [one["label"] for one in told] == ["b"]
    assert math.isclose(told[0]["score"], 1 / (1 + math.exp(-2)), rel_tol=1e-6)


def test_labels_of_every_place_and_of_no_numbers() -> None:
    raw = output("float32", -1, 2, labels=["a", "b"], activation="none")
    told, strange = label_scores(torch.tensor([[1.0, 2.0], [math.nan, 0.0]]), raw)
    assert told[0] == [{"label": "b", "score": 2.0}, {"label": "a", "score": 1.0}]
    assert told[1][0] == {"label": "a", "score": "NaN"}
    assert strange == 1
    json.dumps(told, allow_nan=False)
    with pytest.raises(InvalidInputError, match="3 places for 2 labels"):
        label_scores(torch.ones(3), raw)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_told_numbers_are_read_back_exactly(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    scale = torch.logspace(-4, 4, 500, dtype=torch.float64)
    tensor = (torch.randn(500, generator=generator, dtype=torch.float64) * scale).to(dtype)
    name = str(dtype).removeprefix("torch.")
    values, _ = to_json(tensor, output(name, 500))
    assert torch.equal(torch.tensor(json.loads(json.dumps(values)), dtype=dtype), tensor)


def test_a_float_is_told_with_the_digits_it_has() -> None:
    assert to_json(torch.tensor([0.1, -2.5]), output("float32", 2))[0] == [0.100000001, -2.5]
