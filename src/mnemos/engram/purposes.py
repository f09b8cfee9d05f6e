"""What a model's folder is for, told by its own descriptions: what GENOME then says of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ArtifactRefusedError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_MAX_CONFIG_BYTES = 1024 * 1024
_SENTENCE_FILES = ("modules.json", "1_Pooling/config.json")


@dataclass(frozen=True, slots=True)
class Purpose:
    """What is known of a model from its files; empty for one that generates text."""

    capabilities: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


def find_purpose(root: Path, names: Collection[str]) -> Purpose:
    """Return what the folder `root` with these files is for. Blocks.

    Raises ArtifactRefusedError for what no runtime could load: an adapter without its weights or
    of another kind than LoRA, several GGUF files, a description that cannot be read; and OSError.
    """
    _check_one_gguf(names)
    if ADAPTER_CONFIG in names:
        return _adapter(root, names)
    if "config.json" not in names or "signature.json" in names:
        return Purpose()  # a custom model's config is its own affair
    architectures = _read(root / "config.json").get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    if str(first).endswith("ForSequenceClassification"):
        return Purpose(("classify",))
    if str(first).endswith("LMHeadModel"):
        return Purpose()
    is_embedding = str(first).endswith("Model") or any(name in names for name in _SENTENCE_FILES)
    return Purpose(("embed",)) if is_embedding else Purpose()


def _check_one_gguf(names: Collection[str]) -> None:
    files = sorted(name for name in names if name.lower().endswith(".gguf"))
    if len(files) > 1:
        raise ArtifactRefusedError(
            f"The folder holds {len(files)} GGUF files ({', '.join(files[:4])}); keep the one "
            "that is meant, and merge the parts of a split one first."
        )


def _adapter(root: Path, names: Collection[str]) -> Purpose:
    config = _read(root / ADAPTER_CONFIG)
    kind = str(config.get("peft_type", "LORA"))
    if kind != "LORA":
        raise ArtifactRefusedError(
            f"{ADAPTER_CONFIG} describes an adapter of the kind {kind[:40]}; only LORA is run."
        )
    if ADAPTER_WEIGHTS not in names:
        raise ArtifactRefusedError(
            f"The folder has an {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}: save the adapter as "
            "safetensors."
        )
    base = config.get("base_model_name_or_path")
    metadata = {"base_model": base} if isinstance(base, str) and base else {}
    return Purpose(("lora",), metadata)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError("it is too large")
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtifactRefusedError(f"{path.name} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise ArtifactRefusedError(f"{path.name} is not a JSON object.")
    return value
