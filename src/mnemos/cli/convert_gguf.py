"""Turn a GGUF file into a Hugging Face folder: `python -m mnemos.cli.convert_gguf FILE OUT`.

A program of its own, so that torch never loads into the command line tool. OUT appears whole or
not at all. What transformers loses on the way is mended from the GGUF's own metadata: the
pre-tokeniser that splits digits one by one, the tokeniser's length limit, and the eos, bos and
pad tokens in every file that names them.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

DIGIT_SPLITTING = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"})
"""Values of `tokenizer.ggml.pre` whose tokenisers split numbers into single digits."""

WANTED_KEYS = (
    "general.architecture",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.chat_template",
)
CONTEXT_LENGTH = ".context_length"
"""The end of the key that holds the longest input; it starts with the architecture's name."""


def convert(gguf: Path, out: Path) -> None:
    """Write `out` (bf16 safetensors, tokenizer, chat template, generation config) from `gguf`.

    An `out` that is already there is replaced only after the new one is complete.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        metadata = read_metadata(gguf)
        _say("reading the tokenizer")
        tokenizer = load_tokenizer(gguf, metadata)
        _say("unpacking the weights")
        model = load_model(gguf)
        _say("writing safetensors")
        mend_generation(model, tokenizer)
        model.save_pretrained(staging, safe_serialization=True)
        tokenizer.save_pretrained(staging)
        open_to_readers(staging)
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_metadata(gguf: Path) -> dict[str, Any]:
    """The GGUF's own word on its tokenizer."""
    from gguf import GGUFReader

    fields = GGUFReader(str(gguf)).fields
    return {
        key: field.contents()
        for key, field in fields.items()
        if key in WANTED_KEYS or key.endswith(CONTEXT_LENGTH)
    }


def load_tokenizer(gguf: Path, metadata: dict[str, Any]) -> Any:
    """Read the tokenizer out of the GGUF and mend what the reader dropped."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    read = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    backend = read.backend_tokenizer
    if metadata.get("tokenizer.ggml.pre") in DIGIT_SPLITTING:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    limits = [int(value) for key, value in metadata.items() if key.endswith(CONTEXT_LENGTH)]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        **({"model_max_length": limits[0]} if limits else {}),
        **special_tokens(read, metadata),
    )
    tokenizer.chat_template = metadata.get("tokenizer.chat_template") or read.chat_template
    return tokenizer


def special_tokens(tokenizer: Any, metadata: dict[str, Any]) -> dict[str, str]:
    """The special tokens by name, as the GGUF numbers them."""
    names = {
        "bos_token": "tokenizer.ggml.bos_token_id",
        "eos_token": "tokenizer.ggml.eos_token_id",
        "unk_token": "tokenizer.ggml.unknown_token_id",
        "pad_token": "tokenizer.ggml.padding_token_id",
    }
    found = {
        name: tokenizer.convert_ids_to_tokens(int(metadata[key]))
        for name, key in names.items()
        if key in metadata
    }
    if "eos_token" in found:
        found.setdefault("pad_token", found["eos_token"])
    return found


def load_model(gguf: Path) -> Any:
    """The weights, unpacked in float32 and rounded once to bfloat16."""
    import torch
    import transformers

    options: dict[str, Any] = {"gguf_file": gguf.name, "dtype": torch.float32}
    if hasattr(transformers, "GgufConfig"):  # newer versions would leave the weights packed
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(gguf.parent), **options)
    return model.to(torch.bfloat16)


def mend_generation(model: Any, tokenizer: Any) -> None:
    """Let model, generation config and tokenizer name the same special tokens."""
    for config in (model.config, model.generation_config):
        config.bos_token_id = tokenizer.bos_token_id
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.dtype = "bfloat16"
    model.config._name_or_path = ""


def open_to_readers(folder: Path) -> None:
    """Give the folder the modes of ordinary files; libraries make private ones."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)


def _say(step: str) -> None:
    sys.stdout.write(f"{step}\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Convert; 0 when OUT is there."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) != 2:
        sys.stderr.write("usage: python -m mnemos.cli.convert_gguf FILE.gguf OUT_DIR\n")
        return 2
    convert(Path(words[0]), Path(words[1]))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    raise SystemExit(main())
