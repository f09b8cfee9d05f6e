"""How an embedding is made of a model's last states: what sentence-transformers' files say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ....errors import InvalidInputError
from ..task import read_json

Pooling = Literal["mean", "cls", "lasttoken", "max"]

_POOLINGS: dict[str, Pooling] = {
    "mean": "mean",
    "mean_tokens": "mean",
    "cls": "cls",
    "cls_token": "cls",
    "lasttoken": "lasttoken",
    "max": "max",
    "max_tokens": "max",
}
"""What the files call them, in old and in new versions."""
_MODE = "pooling_mode_"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What becomes of the states of a text's tokens."""

    pooling: Pooling = "mean"
    normalize: bool = False
    prefix: str = ""
    """Stands before every text."""
    max_tokens: int | None = None


def read_recipe(folder: Path, name: str) -> Recipe:
    """The folder's own recipe; without sentence-transformers' files the mean, as it is.

    Raises:
        InvalidInputError: it asks for a step that is not offered here.
    """
    pooling: Pooling = "mean"
    normalize = False
    for kind, path in _modules(folder, name):
        match kind:
            case "Transformer":
                _check_path(path, name)
            case "Pooling":
                pooling = _pooling(_optional(folder / path / "config.json", name), name)
            case "Normalize":
                normalize = True
            case _:
                raise InvalidInputError(
                    f"{name} has a module {kind}: embeddings here know Transformer, Pooling and "
                    "Normalize"
                )
    limit = _optional(folder / "sentence_bert_config.json", name).get("max_seq_length")
    return Recipe(pooling, normalize, _prefix(folder, name), limit)


def _modules(folder: Path, name: str) -> list[tuple[str, str]]:
    """Each module's class and folder, in order."""
    if (folder / "modules.json").is_file():
        modules = read_json(folder / "modules.json", name)
        return [(module["type"].rpartition(".")[2], module["path"]) for module in modules]
    return [("Pooling", "1_Pooling")] if (folder / "1_Pooling").is_dir() else []


def _check_path(path: str, name: str) -> None:
    if path not in {"", "."}:
        raise InvalidInputError(
            f"{name} has its transformer in {path}: put those files beside modules.json"
        )


def _pooling(config: dict[str, Any], name: str) -> Pooling:
    stated = config.get("pooling_mode")
    chosen = (
        [stated]
        if isinstance(stated, str)
        else [key.removeprefix(_MODE) for key, on in config.items() if key.startswith(_MODE) and on]
    ) or ["mean"]
    if len(chosen) > 1 or chosen[0] not in _POOLINGS:
        raise InvalidInputError(
            f"{name} pools by {' and '.join(chosen)}: embeddings here know one of mean, cls, "
            "lasttoken and max"
        )
    return _POOLINGS[chosen[0]]


def _prefix(folder: Path, name: str) -> str:
    config = _optional(folder / "config_sentence_transformers.json", name)
    prompts = config.get("prompts") or {}
    prefix: str = prompts.get(config.get("default_prompt_name"), "")
    return prefix


def _optional(path: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(path, name) if path.is_file() else {}
    return found
