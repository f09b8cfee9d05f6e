"""The GGUF converter on a tiny Llama that a fixture writes: nothing of the model is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WIDTH, LAYERS, HEADS, KV_HEADS, INNER, CONTEXT = 32, 2, 4, 2, 64, 128


def vocabulary() -> tuple[list[str], list[str]]:
    """All bytes as GPT-2 writes them, and two merges of which one joins digits."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    merges = ["h i", "1 2"]
    return [*SPECIAL, *bytes_to_unicode().values(), "hi", "12"], merges


def write_gguf(path: Path) -> dict[str, Any]:
    """Write a random model in float32; gives back its tensors."""
    tokens, merges = vocabulary()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    tensors = random_tensors(len(tokens))
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def random_tensors(words: int) -> dict[str, Any]:
    """The tensors of a Llama with tied embeddings."""
    random = np.random.default_rng(0)
    kv_width = WIDTH // HEADS * KV_HEADS
    shapes = {"token_embd.weight": (words, WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (WIDTH,),
            f"blk.{layer}.attn_q.weight": (WIDTH, WIDTH),
            f"blk.{layer}.attn_k.weight": (kv_width, WIDTH),
            f"blk.{layer}.attn_v.weight": (kv_width, WIDTH),
            f"blk.{layer}.attn_output.weight": (WIDTH, WIDTH),
            f"blk.{layer}.ffn_norm.weight": (WIDTH,),
            f"blk.{layer}.ffn_gate.weight": (INNER, WIDTH),
            f"blk.{layer}.ffn_up.weight": (INNER, WIDTH),
            f"blk.{layer}.ffn_down.weight": (WIDTH, INNER),
        }
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def convert(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mnemos.cli.convert_gguf", str(source), str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("gguf")
    tensors = write_gguf(folder / "tiny.gguf")
    done = convert(folder / "tiny.gguf", folder / "out")
    assert done.returncode == 0, done.stderr
    return folder / "out", tensors


def test_the_folder_holds_what_a_runtime_needs(converted: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = converted
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())
    config = json.loads((folder / "config.json").read_text())
    assert (config["dtype"], config["tie_word_embeddings"]) == ("bfloat16", True)
    assert "quantization_config" not in config
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 2)


def test_the_tokenizer_is_whole(converted: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = converted
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("hi 12") == ["hi", "Ġ", "1", "2"], "digits stand alone"
    assert tokenizer.tokenize("hi  1") == ["hi", "Ġ", "Ġ", "1"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.model_max_length == CONTEXT
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=True)
    listed = ids["input_ids"] if hasattr(ids, "keys") else ids
    assert tokenizer.decode(listed) == "<|im_start|>user\nhi<|im_end|>\n"
    text = "Größe 🍎 12"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_weights_are_those_of_the_file(converted: tuple[Path, dict[str, Any]]) -> None:
    folder, tensors = converted
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.bfloat16
    embedding = torch.from_numpy(tensors["token_embd.weight"]).to(torch.bfloat16)
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    down = torch.from_numpy(tensors["blk.1.ffn_down.weight"]).to(torch.bfloat16)
    assert torch.equal(model.model.layers[1].mlp.down_proj.weight, down)


def test_a_damaged_file_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\x00" * 64)
    done = convert(tmp_path / "bad.gguf", tmp_path / "out")
    assert done.returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]
