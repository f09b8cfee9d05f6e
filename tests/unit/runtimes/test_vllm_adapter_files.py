"""Adapters' files are checked without vLLM: a mistake in its core would cost every request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_lora import build_tiny_lora

from neuron.errors import ArtifactCorruptError, InvalidInputError, NeuronError
from neuron.runtimes.vllm_engine.adapter_files import (
    BaseModel,
    check_adapter,
    write_idle_adapter,
)

PREFIXES = ("model.", "language_model.model.", "")


def base(folder: Path, prefix: str = "model.", kind: str = "weight") -> BaseModel:
    """Two layers whose queries are 128 wide and values 64, and something outside of them."""
    shapes = {"q_proj": (128, 128), "v_proj": (64, 128)}
    places = {
        f"{prefix}layers.{layer}.self_attn.{module}.{kind}": shape
        for layer in range(2)
        for module, shape in shapes.items()
    }
    write(folder, {"lm_head.weight": (400, 128), **places})
    return BaseModel(folder, "tiny:1")


def write(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")


def check(folder: Path, model: BaseModel, max_rank: int = 16) -> None:
    check_adapter(folder, "lora:1", model, max_rank)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_adapter_fits_whatever_stands_before_the_layers(tmp_path: Path, prefix: str) -> None:
    check(build_tiny_lora(tmp_path / "lora"), base(tmp_path / "base", prefix))


def test_widths_are_compared_only_where_weights_show_them(tmp_path: Path) -> None:
    lora = build_tiny_lora(tmp_path / "lora", hidden_size=64)
    check(lora, base(tmp_path / "packed", kind="qweight"))
    with pytest.raises(InvalidInputError, match=r"layers\.0\.self_attn\.q_proj is 64 wide"):
        check(lora, base(tmp_path / "whole"))


@pytest.mark.parametrize("key", ["lm_head", "model.layers.0.mlp.experts"])
def test_what_cannot_be_compared_is_left_to_vllm(tmp_path: Path, key: str) -> None:
    lora = build_tiny_lora(tmp_path / "lora")
    tensors = load_file(lora / "adapter_model.safetensors")
    tensors[f"base_model.model.{key}.lora_A.weight"] = np.zeros((3, 5), np.float32)
    save_file(tensors, lora / "adapter_model.safetensors")
    check(lora, base(tmp_path / "base"))


def test_a_layer_beyond_the_models_last_is_named(tmp_path: Path) -> None:
    lora = build_tiny_lora(tmp_path / "lora")
    tensors = load_file(lora / "adapter_model.safetensors")
    tensors = {name.replace("layers.1", "layers.9"): tensor for name, tensor in tensors.items()}
    save_file(tensors, lora / "adapter_model.safetensors")
    with pytest.raises(InvalidInputError, match=r"no module layers\.9\.self_attn\.q_proj"):
        check(lora, base(tmp_path / "base"))


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        ("{", ArtifactCorruptError, "cannot be read"),
        ("[]", ArtifactCorruptError, "is no object"),
        ("{}", InvalidInputError, "no rank"),
        ('{"r": 0}', InvalidInputError, "no rank"),
        ('{"r": 8, "rank_pattern": {"q_proj": 17}}', InvalidInputError, "rank 17 .* up to 16"),
        ('{"r": 4}', InvalidInputError, "knows no rank 8"),
    ],
)
def test_a_config_that_cannot_be_true_is_refused(
    tmp_path: Path, config: str, kind: type[NeuronError], words: str
) -> None:
    lora = build_tiny_lora(tmp_path / "lora")
    (lora / "adapter_config.json").write_text(config)
    with pytest.raises(kind, match=words):
        check(lora, base(tmp_path / "base"))


def names(folder: Path) -> list[str]:
    return list(load_file(folder / "adapter_model.safetensors"))


def test_weights_that_are_no_lora_are_refused(tmp_path: Path) -> None:
    lora = build_tiny_lora(tmp_path / "lora")
    save_file({"a": np.zeros(3, np.float32)}, lora / "adapter_model.safetensors")
    with pytest.raises(InvalidInputError, match="holds no lora_ tensors"):
        check(lora, base(tmp_path / "base"))


def test_the_idle_adapter_is_for_no_module_of_the_model(tmp_path: Path) -> None:
    write_idle_adapter(tmp_path / "idle", base(tmp_path / "base"))
    assert all(".idle.q_proj.lora_" in name for name in names(tmp_path / "idle"))
    config: dict[str, Any] = json.loads((tmp_path / "idle" / "adapter_config.json").read_text())
    assert config["r"] == 1
