"""From a VLLMConfig to vLLM's engine arguments."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from ...errors import ArtifactCorruptError, InvalidInputError
from ...models.runtime import VLLMConfig
from ...models.sampling import MAX_TOP_LOGPROBS

PoolingTask = Literal["embed", "classify"]
"""What a model that reads is asked for."""
_REMOVED_QUANTIZATIONS = {"squeezellm"}
_RUNNERS = {"auto": "auto", "generate": "generate", "embed": "pooling", "classify": "pooling"}
_GIB = 2**30
_CPU_CACHE_BYTES = 4 * _GIB
KV_CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
"""GiB for keys and values on a CPU; the operator's word, read by vLLM itself."""
NO_COMPILER = ("TORCHDYNAMO_DISABLE", "1")
"""For a CPU: vLLM compiles some steps at their first use even when told not to compile the model,
and every answer would wait ten seconds for the first that wants log-probabilities."""


def engine_arguments(folder: Path, name: str, config: VLLMConfig) -> dict[str, Any]:
    """What AsyncEngineArgs is told on any device; `cpu_arguments` adds to it on a CPU.

    Prefix caching is left to vLLM: it is on, except for models that cannot have it.

    Raises:
        InvalidInputError: no vLLM can do what the config asks for.
    """
    if config.quantization in _REMOVED_QUANTIZATIONS:
        raise InvalidInputError(
            f"runtime_config: quantization: vLLM no longer reads {config.quantization} models; "
            "convert the model to awq, gptq or fp8"
        )
    return {
        **_lora_arguments(config),
        "model": str(folder),
        "tokenizer": str(folder),
        "served_model_name": name,
        "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size,
        "max_model_len": config.max_model_len,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "dtype": config.dtype,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": config.max_num_batched_tokens,
        "trust_remote_code": config.trust_remote_code,
        "quantization": config.quantization,
        "runner": _RUNNERS[config.task],
        # Pickled weights are never read, and a model's own sampling defaults never apply: a
        # job's parameters mean the same on every runtime.
        "load_format": "safetensors",
        "generation_config": "vllm",
        # As the model gives them, before temperature, penalties and guides.
        "logprobs_mode": "raw_logprobs",
        "max_logprobs": MAX_TOP_LOGPROBS,
        "disable_log_stats": True,
        "enable_log_requests": False,
    }


def _lora_arguments(config: VLLMConfig) -> dict[str, Any]:
    if not config.enable_lora:
        return {}
    return {
        "enable_lora": True,
        "max_loras": config.max_loras,
        "max_lora_rank": config.max_lora_rank,
    }


def cpu_arguments(config: VLLMConfig, *, fast_bfloat16: bool, free_bytes: int) -> dict[str, Any]:
    """What differs on a CPU, where vLLM would take its memory share of the whole machine.

    Compiling takes minutes there and gains little. `auto` is float32 where bfloat16 is emulated.
    """
    arguments: dict[str, Any] = {"enforce_eager": True}
    if config.dtype == "auto" and not fast_bfloat16:
        arguments["dtype"] = "float32"
    if config.enable_lora:
        arguments["max_loras"] = config.max_loras + 1  # one is for requests without an adapter
    if not os.environ.get(KV_CACHE_VARIABLE):
        share = int(free_bytes * config.gpu_memory_utilization)
        arguments["kv_cache_memory_bytes"] = min(_CPU_CACHE_BYTES, share)
    return arguments


def pooling_task(name: str, config: VLLMConfig, offered: Collection[str]) -> PoolingTask:
    """What a model that reads is asked for.

    Raises:
        InvalidInputError: it cannot do what the config wants it for.
    """
    wanted: tuple[PoolingTask, ...]
    wanted = (config.task,) if config.task in ("embed", "classify") else ("classify", "embed")
    for task in wanted:
        if task in offered:
            return task
    raise InvalidInputError(
        f"runtime_config: task: {name} cannot {' or '.join(wanted)}; vLLM offers "
        f"{', '.join(sorted(offered)) or 'nothing'} for it"
    )


def check_files(folder: Path, name: str) -> None:
    """See that the folder can hold a model at all, before an engine is started for it.

    Raises:
        ArtifactCorruptError: its config or its weights are missing.
        InvalidInputError: it has weights that are never loaded.
    """
    if not (folder / "config.json").is_file():
        raise ArtifactCorruptError(f"the files of {name} are not complete: no config.json")
    if any(folder.glob("*.safetensors")):
        _check_shards(folder, name)
        return
    if any(file.suffix in {".bin", ".pt", ".pth"} for file in folder.iterdir()):
        raise InvalidInputError(
            f"{name} has pickled weights only, which are never loaded: convert it to safetensors"
        )
    raise ArtifactCorruptError(f"the files of {name} are not complete: no *.safetensors")


def _check_shards(folder: Path, name: str) -> None:
    """vLLM loads the shards that it finds, and does not always miss the others."""
    index = folder / "model.safetensors.index.json"
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values())
    except FileNotFoundError:
        return
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ArtifactCorruptError(
            f"the files of {name} cannot be read: {index.name}: {error}"
        ) from error
    if missing := sorted(shard for shard in shards if not (folder / str(shard)).is_file()):
        raise ArtifactCorruptError(f"the files of {name} are not complete: no {missing[0]}")
