"""From a model's folder and a TransformersConfig to a model that is ready to run."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from ...errors import (
    ArtifactCorruptError,
    InsufficientResourcesError,
    InvalidInputError,
    NeuronError,
    OutOfMemoryError,
    RuntimeUnavailableError,
)
from ...models.runtime import ToolParser, TransformersConfig
from ..runtime_config import SPREAD_MAPS
from ..torch_faults import is_out_of_memory
from .gguf import find_gguf, model_source, tokenizer_source
from .hardware import default_device, has_fast_bfloat16
from .packing import pack_linears
from .task import Task

_UNKNOWN_CONTEXT = 10**9
_CLASS_BY_TASK: dict[Task, Any] = {
    "generate": AutoModelForCausalLM,
    "embed": AutoModel,
    "classify": AutoModelForSequenceClassification,
}
_UNUSED_BY_EMBEDDINGS = "pooler."


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A model and all that is needed to talk to it."""

    model: Any
    tokenizer: Any
    context_tokens: int
    end_tokens: tuple[int, ...]
    vocabulary: int
    tool_parser: ToolParser = "auto"


def load_checkpoint(
    folder: Path, name: str, config: TransformersConfig, task: Task = "generate"
) -> LoadedCheckpoint:
    """Read the folder; blocks for as long as that takes, reaches no network.

    Raises:
        NeuronError: InvalidInputError, ArtifactCorruptError, OutOfMemoryError or
            RuntimeUnavailableError, with the reason.
    """
    gguf = find_gguf(folder, name)
    _check_files(folder, name, gguf, task)
    try:
        return _load(folder, name, config, task, gguf)
    except NeuronError:
        raise
    except Exception as error:
        raise _translated(error, name) from error


def _load(
    folder: Path, name: str, config: TransformersConfig, task: Task, gguf: str | None
) -> LoadedCheckpoint:
    trust = {"trust_remote_code": config.trust_remote_code, "local_files_only": True}
    source = model_source(gguf)
    model_config = AutoConfig.from_pretrained(folder, **source, **trust)
    if getattr(model_config, "is_encoder_decoder", False):
        raise InvalidInputError(f"{name} is an encoder-decoder model; only decoders are offered")
    device = _device(config)
    tokenizer = AutoTokenizer.from_pretrained(folder, **tokenizer_source(folder, gguf), **trust)
    model, report = _CLASS_BY_TASK[task].from_pretrained(
        folder,
        config=model_config,
        dtype=_dtype(config, model_config, device),
        use_safetensors=True,
        low_cpu_mem_usage=config.low_cpu_mem_usage,
        output_loading_info=True,
        **_placement(config, device),
        **_attention(config, device),
        **_quantization(config, device),
        **source,
        **trust,
    )
    missing = sorted(report["missing_keys"])
    if task == "embed":
        missing = [key for key in missing if not key.startswith(_UNUSED_BY_EMBEDDINGS)]
    if missing:
        raise ArtifactCorruptError(f"the files of {name} lack the tensor {missing[0]}")
    model.eval().requires_grad_(requires_grad=False)
    if not hasattr(model, "hf_device_map") and not _is_quantized(config):
        model.to(device)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if device.type == "cpu" and not _is_quantized(config):
        pack_linears(model)
    return LoadedCheckpoint(
        model=model,
        tokenizer=tokenizer,
        context_tokens=_context_tokens(model, tokenizer),
        end_tokens=_end_tokens(model, tokenizer),
        vocabulary=vocabulary,
        tool_parser=config.tool_parser,
    )


def _check_files(folder: Path, name: str, gguf: str | None, task: Task) -> None:
    if gguf is not None:
        if task != "generate":
            raise InvalidInputError(f"{name} is a GGUF file, which only generates text here")
        return
    if not (folder / "config.json").is_file():
        raise ArtifactCorruptError(f"the files of {name} are not complete: no config.json")
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise InvalidInputError(
            f"{name} has pickled weights only, which are never loaded: convert it to safetensors"
        )
    raise ArtifactCorruptError(f"the files of {name} are not complete: no *.safetensors")


def _translated(error: Exception, name: str) -> NeuronError:
    text = str(error).strip() or type(error).__name__
    first_line = text.splitlines()[0]
    if is_out_of_memory(error):
        return OutOfMemoryError(f"{name} does not fit into memory: {first_line}")
    if "trust_remote_code" in text:
        return InvalidInputError(
            f"{name} needs Python code of its own, which this worker runs only if its operator "
            "sets NEURON_ALLOW_REMOTE_CODE=true and the job says trust_remote_code"
        )
    if isinstance(error, ImportError):
        return RuntimeUnavailableError(f"{name} needs a package that is missing: {first_line}")
    if isinstance(error, SafetensorError | OSError | json.JSONDecodeError | UnicodeDecodeError):
        return ArtifactCorruptError(f"the files of {name} cannot be read: {first_line}")
    if "GGUF model with architecture" in text:
        return InvalidInputError(f"{name} cannot run here: {first_line}")
    if "Unrecognized" in text or "does not recognize this architecture" in text:
        return InvalidInputError(f"{name} is not a model that generates text: {first_line}")
    return ArtifactCorruptError(f"{name} cannot be loaded: {type(error).__name__}: {first_line}")


def _device(config: TransformersConfig) -> torch.device:
    wanted = config.device
    if wanted == "auto" and config.device_map not in {None, *SPREAD_MAPS}:
        wanted = config.device_map or "auto"
    device = default_device() if wanted == "auto" else torch.device(wanted)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise InsufficientResourcesError(f"the device {device} is not here ({count} GPUs)")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InsufficientResourcesError("the device mps is not here")
    return device


def _dtype(config: TransformersConfig, model_config: Any, device: torch.device) -> torch.dtype:
    """`auto` is the checkpoint's, or float32 where the CPU is slow at that."""
    if config.torch_dtype != "auto":
        named: torch.dtype = getattr(torch, config.torch_dtype)
        return named
    stored = getattr(model_config.get_text_config(decoder=True), "dtype", None)
    stored = stored if isinstance(stored, torch.dtype) else torch.float32
    if device.type != "cpu":
        return stored
    return stored if stored == torch.bfloat16 and has_fast_bfloat16() else torch.float32


def _placement(config: TransformersConfig, device: torch.device) -> dict[str, Any]:
    spread = config.device == "auto" and config.device_map in SPREAD_MAPS
    if spread and torch.cuda.device_count() > 1:
        return {"device_map": config.device_map}
    return {} if device.type == "cpu" else {"device_map": {"": str(device)}}


def _attention(config: TransformersConfig, device: torch.device) -> dict[str, Any]:
    if not config.use_flash_attention_2:
        return {}
    if device.type != "cuda" or importlib.util.find_spec("flash_attn") is None:
        raise RuntimeUnavailableError(
            "use_flash_attention_2 needs a GPU and the package flash-attn on the worker"
        )
    return {"attn_implementation": "flash_attention_2"}


def _is_quantized(config: TransformersConfig) -> bool:
    return config.load_in_8bit or config.load_in_4bit


def _quantization(config: TransformersConfig, device: torch.device) -> dict[str, Any]:
    if not _is_quantized(config):
        return {}
    bits = "load_in_8bit" if config.load_in_8bit else "load_in_4bit"
    if device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        raise RuntimeUnavailableError(
            f"{bits} needs a GPU and the package bitsandbytes on the worker"
        )
    return {"quantization_config": transformers.BitsAndBytesConfig(**{bits: True})}


def _context_tokens(model: Any, tokenizer: Any) -> int:
    stated = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    longest = min(int(tokenizer.model_max_length), _UNKNOWN_CONTEXT)
    if not isinstance(stated, int) or stated <= 0:
        return longest
    if (unused := _unused_positions(model)) > 0:
        return min(stated - unused, longest)
    return stated


def _unused_positions(model: Any) -> int:
    """RoBERTa and its kin count positions from behind the padding's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings"):
            padding = getattr(module, "padding_idx", None)
            return 0 if padding is None else int(padding) + 1
    return 0


def _end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    generation = getattr(model, "generation_config", None)
    stated = getattr(generation, "eos_token_id", None)
    tokens = stated if isinstance(stated, list) else [stated]
    tokens = [*tokens, tokenizer.eos_token_id]
    return tuple(sorted({token for token in tokens if isinstance(token, int)}))
