"""GGUF files: found here, unpacked by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import InvalidInputError


def find_gguf(folder: Path, name: str) -> str | None:
    """The folder's one GGUF file, where it has no safetensors.

    Raises:
        InvalidInputError: there are several.
    """
    if any(folder.glob("*.safetensors")):
        return None
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if len(files) > 1:
        raise InvalidInputError(
            f"{name} has several GGUF files ({', '.join(files)}): publish one of them alone"
        )
    return files[0] if files else None


def model_source(gguf: str | None) -> dict[str, Any]:
    """What from_pretrained must know to read the config and the weights."""
    return {} if gguf is None else {"gguf_file": gguf}


def tokenizer_source(folder: Path, gguf: str | None) -> dict[str, Any]:
    """The same for the tokenizer: a tokenizer.json beside the file is more faithful than it."""
    return {} if (folder / "tokenizer.json").is_file() else model_source(gguf)
