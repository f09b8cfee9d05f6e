"""A LoRA adapter with random weights, in the files that peft writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LAYERS, HEADS, KEY_HEADS = 2, 4, 2


def build_tiny_lora(
    directory: Path,
    *,
    seed: int = 0,
    rank: int = 8,
    hidden_size: int = 128,
    modules: tuple[str, ...] = ("q_proj", "v_proj"),
    **config: Any,
) -> Path:
    """Write an adapter for `build_tiny_llama(hidden_size=128)`; the same for a seed.

    It changes the model so much that greedy answers differ from the first tokens on.
    """
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    width = {"q_proj": hidden_size, "v_proj": hidden_size // HEADS * KEY_HEADS}
    tensors = {}
    for layer in range(LAYERS):
        for module in modules:
            place = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            down = torch.randn(rank, hidden_size, generator=generator)
            up = torch.randn(width.get(module, hidden_size), rank, generator=generator)
            tensors[f"{place}.lora_A.weight"] = down * 0.2
            tensors[f"{place}.lora_B.weight"] = up * 0.2
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    stated = {
        "peft_type": "LORA",
        "base_model_name_or_path": "tiny",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(modules),
        **config,
    }
    (directory / "adapter_config.json").write_text(json.dumps(stated))
    return directory
