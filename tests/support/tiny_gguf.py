"""A tiny Llama with random weights in one GGUF file, its tokenizer inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CONTEXT = 128
_WIDTH, _LAYERS, _HEADS, _KV_HEADS, _INNER = 32, 2, 4, 2, 64
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tiny_gguf(path: Path, *, architecture: str = "llama", quantized: bool = False) -> Path:
    """Write the file; always the same. `quantized` packs the matrices as Q8_0."""
    import gguf

    path.parent.mkdir(parents=True, exist_ok=True)
    tokens, merges = _vocabulary()
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(_TEMPLATE)
    for name, tensor in _tensors(len(tokens)).items():
        packed = gguf.GGMLQuantizationType.Q8_0 if quantized and tensor.ndim > 1 else None
        data = tensor if packed is None else gguf.quantize(tensor, packed)
        writer.add_tensor(name, data, raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary() -> tuple[list[str], list[str]]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*SPECIAL, *bytes_to_unicode().values(), "hi", "lo"], ["h i", "l o"]


def _tensors(words: int) -> dict[str, Any]:
    import numpy as np

    random = np.random.default_rng(0)
    kv_width = _WIDTH // _HEADS * _KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (words, _WIDTH),
        "output.weight": (words, _WIDTH),
        "output_norm.weight": (_WIDTH,),
    }
    for layer in range(_LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (_WIDTH,),
            f"blk.{layer}.attn_q.weight": (_WIDTH, _WIDTH),
            f"blk.{layer}.attn_k.weight": (kv_width, _WIDTH),
            f"blk.{layer}.attn_v.weight": (kv_width, _WIDTH),
            f"blk.{layer}.attn_output.weight": (_WIDTH, _WIDTH),
            f"blk.{layer}.ffn_norm.weight": (_WIDTH,),
            f"blk.{layer}.ffn_gate.weight": (_INNER, _WIDTH),
            f"blk.{layer}.ffn_up.weight": (_INNER, _WIDTH),
            f"blk.{layer}.ffn_down.weight": (_WIDTH, _INNER),
        }
    return {
        name: (random.normal(size=shape) * 0.3).astype(np.float32) for name, shape in shapes.items()
    }
