"""Which kind of model a folder holds, told by the files' content; pickles are never one."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from .errors import ArtifactRefusedError

ArtifactFormat = Literal["safetensors", "gguf", "torch_export", "torchscript"]

PICKLE_SUFFIXES = frozenset({".bin", ".pkl", ".pickle", ".pth", ".ckpt", ".joblib", ".dill"})
_INDEX_SUFFIX = ".safetensors.index.json"
_MAX_HEADER_BYTES = 100 * 1024 * 1024
_MAX_INDEX_BYTES = 64 * 1024 * 1024


def check_content(path: Path, name: str) -> None:
    """Raise ArtifactRefusedError if the file is a pickle or not what its name says. Blocks.

    `name` is its path in the model. Reads a few bytes, never the weights. Raises OSError.
    """
    suffix = PurePosixPath(name).suffix.lower()
    with path.open("rb") as file:
        head = file.read(8)
    if suffix in PICKLE_SUFFIXES or _is_pickle(path, head):
        raise ArtifactRefusedError(
            f"{name} is a pickle, which can run any code when it is loaded; convert it to "
            "safetensors, or leave it out if the model does not need it."
        )
    if suffix == ".gguf" and not head.startswith(b"GGUF"):
        raise ArtifactRefusedError(f"{name} is damaged: a GGUF file does not start like this.")
    if suffix == ".safetensors":
        _check_safetensors(path, name, head)
    if suffix in {".pt", ".pt2"} and not zipfile.is_zipfile(path):
        raise ArtifactRefusedError(
            f"{name} is damaged, or neither a TorchScript nor a torch.export archive."
        )


def check_shards(root: Path, names: Iterable[str]) -> None:
    """Raise ArtifactRefusedError if a safetensors index names a file that is missing. Blocks."""
    known = set(names)
    for name in sorted(known):
        if not name.endswith(_INDEX_SUFFIX):
            continue
        folder = PurePosixPath(name).parent
        for shard in sorted(_shards(root / name, name)):
            if str(folder / shard) not in known:
                raise ArtifactRefusedError(f"{name} names {shard}, which is not in the folder.")


def detect_format(names: Iterable[str]) -> ArtifactFormat:
    """Return what kind of model these files are. Raises ArtifactRefusedError if none or many."""
    by_suffix: dict[str, ArtifactFormat] = {
        ".safetensors": "safetensors",
        ".gguf": "gguf",
        ".pt2": "torch_export",
        ".pt": "torchscript",
    }
    found: set[ArtifactFormat] = set()
    for name in names:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in by_suffix:
            found.add(by_suffix[suffix])
    if not found:
        raise ArtifactRefusedError(
            "The folder holds no model: there is no .safetensors, .gguf, .pt2 or .pt file in it."
        )
    if len(found) > 1:
        raise ArtifactRefusedError(
            f"The folder holds several kinds of weights ({', '.join(sorted(found))}); keep one."
        )
    return found.pop()


def _is_pickle(path: Path, head: bytes) -> bool:
    if len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return True
    if not head.startswith(b"PK") or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        members = [PurePosixPath(member).parts for member in archive.namelist()]
    # torch.save writes …/data.pkl; TorchScript has one too, but beside its …/code/.
    has_pickle = any(parts[-1:] == ("data.pkl",) for parts in members)
    has_code = any(parts[1:2] == ("code",) for parts in members)
    return has_pickle and not has_code


def _check_safetensors(path: Path, name: str, head: bytes) -> None:
    size = path.stat().st_size
    header = int.from_bytes(head, "little") if len(head) == 8 else 0
    if not 2 <= header <= min(_MAX_HEADER_BYTES, size - 8):
        raise ArtifactRefusedError(f"{name} is damaged or cut short: its header does not fit.")
    with path.open("rb") as file:
        file.seek(8)
        try:
            tensors = json.loads(file.read(header))
            tensors.pop("__metadata__", None)
            end = max((int(each["data_offsets"][1]) for each in tensors.values()), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            raise ArtifactRefusedError(f"{name} is damaged: its header cannot be read.") from None
    if size != 8 + header + end:
        raise ArtifactRefusedError(
            f"{name} is damaged: it should have {8 + header + end} bytes and has {size}."
        )


def _shards(path: Path, name: str) -> set[str]:
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError("too large")
        weight_map = json.loads(path.read_bytes())["weight_map"]
        return {str(shard) for shard in weight_map.values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactRefusedError(f"{name} is damaged: it cannot be read ({error}).") from error
