"""Looks into a TorchScript archive before torch.jit.load does.

TorchScript is a language of its own, without imports, processes or sockets; but it has operators
that read and write any file, and it reaches operators of whatever library the engine holds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from ...errors import ArtifactCorruptError, InvalidInputError
from ..base import EngineSettings

_REFUSED = (
    re.compile(r"\b(from_file|save)[\s\\]*\("),
    re.compile(r"\b(ops[\s\\]*\.[\s\\]*(?!(?:aten|prim|prims|quantized|torchvision)\b)\w+)"),
    re.compile(r"\b(torch\.classes\.(?!(?:quantized|xnnpack|mkldnn)\b)\w+)"),
)


def check_script(path: Path, model: str, settings: EngineSettings) -> None:
    """Let a TorchScript archive pass that only computes. Blocks.

    Raises:
        InvalidInputError: it is a pickle, or it calls what the operator must allow.
        ArtifactCorruptError: it cannot be read.
    """
    try:
        reader: Any = torch._C.PyTorchFileReader(str(path))
        names: list[str] = reader.get_all_records()
        sources = [reader.get_record(name) for name in names if _is_source(name)]
    except RuntimeError as error:
        raise ArtifactCorruptError(
            f"the TorchScript archive of {model} cannot be read: {error}"
        ) from error
    if settings.allow_remote_code:
        return
    for source in sources:
        text = source.decode("utf-8", "replace")
        for pattern in _REFUSED:
            if found := pattern.search(text):
                raise InvalidInputError(
                    f"the TorchScript of {model} calls {found[1]}, which this worker does not let "
                    "a model do (its operator can with NEURON_ALLOW_REMOTE_CODE=true)"
                )


def is_script(path: Path) -> bool:
    """Whether a zip archive is TorchScript and not what torch.save writes. Blocks."""
    try:
        reader: Any = torch._C.PyTorchFileReader(str(path))
        names: list[str] = reader.get_all_records()
    except RuntimeError:
        return False
    return "constants.pkl" in names


def _is_source(name: str) -> bool:
    """Code, and the object tree, which names classes; its other bytes look like no call."""
    return (name.startswith("code/") and name.endswith(".py")) or name == "data.pkl"
