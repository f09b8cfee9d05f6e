"""Which kind of model a folder holds, told by the files' content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from .archives import ZIP_HEAD, archive_kind
from .errors import ArtifactRefusedError
from .gguf_header import MAGIC, check_gguf
from .safetensors_header import tensor_names

ArtifactFormat = Literal["safetensors", "gguf", "torch_export", "torchscript", "pickle"]
FileKind = Literal["safetensors", "gguf", "torch_export", "torchscript", "pickle", "other"]

PICKLE_SUFFIXES = frozenset({".bin", ".pkl", ".pickle", ".pth", ".ckpt", ".joblib", ".dill"})
_INDEX_SUFFIX = ".safetensors.index.json"
_MAX_INDEX_BYTES = 64 * 1024 * 1024
_SUFFIXES: Mapping[FileKind, str] = {
    "gguf": ".gguf",
    "torch_export": ".pt2",
    "torchscript": ".pt",
}
_WEIGHTS = frozenset({*PICKLE_SUFFIXES, ".gguf", ".safetensors", ".pt", ".pt2"})


def check_content(path: Path, name: str, *, allow_pickle: bool = False) -> FileKind:
    """Return what a file is, by its first bytes and its headers. Blocks, reads no weights.

    `name` is its path in the model. Raises ArtifactRefusedError if it is a pickle and those are
    not allowed, or if it is not what its name says; and OSError.
    """
    suffix = PurePosixPath(name).suffix.lower()
    kind = _kind(path, name, suffix)
    if kind == "pickle" and not allow_pickle:
        raise ArtifactRefusedError(
            f"{name} is a pickle, which can run any code when it is loaded; convert it to "
            "safetensors, or leave it out if the model does not need it."
        )
    expected = _SUFFIXES.get(kind)
    if expected and suffix != expected and suffix in _WEIGHTS:
        raise ArtifactRefusedError(
            f"{name} holds {_called(kind)}, not what its name says: call it "
            f"{PurePosixPath(name).stem}{expected}."
        )
    return kind


def check_shards(files: Mapping[str, Path]) -> None:
    """Raise ArtifactRefusedError if a safetensors index disagrees with the files. Blocks.

    `files` maps each path in the model to where it lies. Every shard must be there, and hold the
    tensors that the index says it holds.
    """
    for name in sorted(files):
        if not name.endswith(_INDEX_SUFFIX):
            continue
        folder = PurePosixPath(name).parent
        for shard, tensors in sorted(_shards(files[name], name).items()):
            path = str(folder / shard)
            if path not in files or not path.endswith(".safetensors"):
                raise ArtifactRefusedError(f"{name} names {shard}, which is not in the folder.")
            missing = sorted(tensors - tensor_names(files[path], path))
            if missing:
                raise ArtifactRefusedError(
                    f"{name} says that {shard} holds {missing[0][:80]!r}, and it does not."
                )


def detect_format(kinds: Mapping[str, FileKind]) -> ArtifactFormat:
    """Return what kind of model these files are. Raises ArtifactRefusedError if none or many.

    A model that brings a pickle is one, whatever else it brings.
    """
    found = set(kinds.values()) - {"other"}
    weights = sorted(found - {"pickle"})
    if not found:
        raise ArtifactRefusedError(
            "The folder holds no model: there is no .safetensors, .gguf, .pt2 or .pt file in it."
        )
    if len(weights) > 1:
        raise ArtifactRefusedError(
            f"The folder holds several kinds of weights ({', '.join(weights)}); keep one."
        )
    form: ArtifactFormat
    for form in ("pickle", "safetensors", "gguf", "torch_export", "torchscript"):
        if form in found:
            return form
    raise AssertionError(found)


def _kind(path: Path, name: str, suffix: str) -> FileKind:
    with path.open("rb") as file:
        head = file.read(8)
    if suffix == ".safetensors":
        tensor_names(path, name)
        return "safetensors"
    if suffix == ".gguf" or head.startswith(MAGIC):
        check_gguf(path, name)
        return "gguf"
    if head.startswith(ZIP_HEAD):
        kind = archive_kind(path, name)
        if kind != "other":
            return kind
    if suffix in PICKLE_SUFFIXES or _is_plain_pickle(head):
        return "pickle"
    if suffix in {".pt", ".pt2"}:
        raise ArtifactRefusedError(
            f"{name} is damaged, or neither a TorchScript nor a torch.export archive."
        )
    return "other"


def _is_plain_pickle(head: bytes) -> bool:
    return len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def _called(kind: FileKind) -> str:
    called = {"gguf": "GGUF", "torch_export": "a torch.export archive"}
    return called.get(kind, "TorchScript")


def _shards(path: Path, name: str) -> dict[str, set[str]]:
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError("too large")
        weight_map = json.loads(path.read_bytes())["weight_map"]
        shards: dict[str, set[str]] = {}
        for tensor, shard in weight_map.items():
            shards.setdefault(str(shard), set()).add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactRefusedError(f"{name} is damaged: it cannot be read ({error}).") from error
    return shards
