"""Every field of TransformersConfig: what it does here, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from asking import job

from neuron.errors import InsufficientResourcesError, InvalidInputError, RuntimeUnavailableError
from neuron.models.runtime import RuntimeType, TransformersConfig
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.runtime_config import check_config
from neuron.runtimes.transformers_engine.hardware import has_fast_bfloat16
from neuron.runtimes.transformers_engine.loading import LoadedCheckpoint, load_checkpoint
from neuron.runtimes.transformers_runtime import TransformersRuntime

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine lacks")


def load(cache: Path, **config: Any) -> LoadedCheckpoint:
    parsed = check_config(RuntimeType.TRANSFORMERS, config, EngineSettings(model_cache_dir=cache))
    assert isinstance(parsed, TransformersConfig)
    return load_checkpoint(cache / "tiny" / "1", "tiny:1", parsed)


def test_every_field_is_tested_here() -> None:
    assert set(TransformersConfig.model_fields) == {
        "device", "torch_dtype", "load_in_8bit", "load_in_4bit", "device_map",
        "trust_remote_code", "use_flash_attention_2", "low_cpu_mem_usage", "task",
        "tool_parser",
    }  # fmt: skip


def test_the_tool_parser_is_a_known_one_and_reaches_the_prompts(cache: Path) -> None:
    assert load(cache, tool_parser="hermes").tool_parser == "hermes"
    with pytest.raises(InvalidInputError, match="tool_parser"):
        load(cache, tool_parser="other")


def test_a_device_is_a_device(cache: Path) -> None:
    assert load(cache, device="cpu").model.device.type == "cpu"
    with pytest.raises(InvalidInputError, match="'tpu' is not auto, cpu, cuda"):
        load(cache, device="tpu")


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_device_that_is_not_here_is_a_lack_of_this_worker(cache: Path, device: str) -> None:
    with pytest.raises(InsufficientResourcesError, match=r"device cuda.* is not here \(0 GPUs\)"):
        load(cache, device=device)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_number_format_is_the_one_named(cache: Path, dtype: str) -> None:
    assert load(cache, device="cpu", torch_dtype=dtype).model.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float32"])
def test_auto_is_the_stored_format_unless_the_cpu_is_slow_at_it(
    tmp_path: Path, cache: Path, stored: str
) -> None:
    folder = tmp_path / "tiny" / "1"
    shutil.copytree(cache / "tiny" / "1", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": stored}))
    fast = stored == "bfloat16" and has_fast_bfloat16()
    expected = torch.bfloat16 if fast else torch.float32
    assert load(tmp_path, device="cpu").model.dtype == expected


@pytest.mark.parametrize("bits", ["load_in_8bit", "load_in_4bit"])
@no_gpu
def test_quantized_loading_says_what_it_needs(cache: Path, bits: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=f"{bits} needs a GPU and .*bitsandbytes"):
        load(cache, **{bits: True})


def test_the_two_quantizations_exclude_each_other(cache: Path) -> None:
    with pytest.raises(InvalidInputError, match="load_in_8bit and load_in_4bit exclude"):
        load(cache, load_in_8bit=True, load_in_4bit=True)


def test_a_device_map_is_a_device_or_a_way_to_spread(cache: Path) -> None:
    assert load(cache, device_map="cpu").model.device.type == "cpu"
    for spread in ("auto", "balanced", "balanced_low_0", "sequential", None):
        load(cache, device_map=spread)
    with pytest.raises(InvalidInputError, match="device_map: 'disk' is not a device or one of"):
        load(cache, device_map="disk")


@no_gpu
def test_a_device_map_may_name_a_device_that_is_not_here(cache: Path) -> None:
    with pytest.raises(InsufficientResourcesError, match="cuda:1 is not here"):
        load(cache, device_map="cuda:1")


def test_code_from_models_is_the_operators_decision(cache: Path) -> None:
    with pytest.raises(InvalidInputError, match="NEURON_ALLOW_REMOTE_CODE=true"):
        load(cache, trust_remote_code=True)
    settings = EngineSettings(model_cache_dir=cache, allow_remote_code=True)
    allowed = check_config(RuntimeType.TRANSFORMERS, {"trust_remote_code": True}, settings)
    assert isinstance(allowed, TransformersConfig)
    assert allowed.trust_remote_code


def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "tiny" / "1"
    shutil.copytree(cache / "tiny" / "1", folder)
    config = (folder / "config.json").read_text()
    own = '"auto_map": {"AutoConfig": "own.OwnConfig"}, "model_type": "own"'
    (folder / "config.json").write_text(config.replace('"model_type": "llama"', own))
    touched = tmp_path / "touched"
    (folder / "own.py").write_text(f"open({str(touched)!r}, 'w')\n")
    with pytest.raises(InvalidInputError, match="needs Python code of its own"):
        load(tmp_path)
    assert not touched.exists()


@no_gpu
def test_flash_attention_says_what_it_needs(cache: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="needs a GPU and the package flash-attn"):
        load(cache, use_flash_attention_2=True)


@pytest.mark.parametrize("low", [True, False])
def test_low_memory_loading_is_the_same_model(cache: Path, low: bool) -> None:
    one = load(cache, low_cpu_mem_usage=low, device="cpu").model.get_input_embeddings().weight
    other = load(cache, device="cpu").model.get_input_embeddings().weight
    assert torch.equal(one, other)


def test_an_unknown_field_or_task_is_named(cache: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"runtime_config: torch_type"):
        load(cache, torch_type="float32")
    with pytest.raises(InvalidInputError, match=r"runtime_config: task"):
        load(cache, task="translate")


async def test_the_log_tells_how_a_model_was_loaded(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runtime = TransformersRuntime(EngineSettings(model_cache_dir=cache, max_batch_size=1))
    await runtime.load_model("tiny", "1", {"device": "cpu", "torch_dtype": "bfloat16"})
    try:
        assert "loaded tiny:1: torch.bfloat16 on cpu, one request at a time" in caplog.text
        assert (await runtime.execute(job("Hello"))).metadata["tokens_generated"] == 24
    finally:
        await runtime.unload_model()
