"""A LoRA adapter's files, checked before vLLM reads them: in its core a mistake would cost all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...errors import ArtifactCorruptError, InvalidInputError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLES = ("adapter_model.bin", "adapter_model.pt")
_HALF = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<half>[AB])\.weight")
_LAYER = re.compile(r"(?:^|\.)((?:layers|layer|h|blocks)\.\d+\..+)")
_EXPERTS = ".experts"

Shapes = dict[str, tuple[int, ...]]


def tensor_shapes(file: Path, name: str) -> Shapes:
    """The tensors of a safetensors file, by its header alone.

    Raises:
        ArtifactCorruptError: it is none.
    """
    try:
        with safe_open(file, framework="np") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118 -- no mapping
    except (OSError, SafetensorError) as error:
        raise ArtifactCorruptError(
            f"the files of {name} cannot be read: {file.name}: {error}"
        ) from error


class BaseModel:
    """The layers of the model that adapters are for, by the shapes of its weights.

    Modules are compared by their place in a layer: what comes before it is named differently
    by different versions of the libraries that train adapters. vLLM checks those outside.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._modules = set[str]()
        self._shapes: dict[str, set[tuple[int, ...]]] = {}
        for file in sorted(folder.glob("*.safetensors")):
            for key, shape in tensor_shapes(file, name).items():
                self._learn(key, shape)

    @property
    def projection(self) -> str:
        """The last name of some module that can have an adapter."""
        dense = sorted(place for place in self._modules if _EXPERTS not in place)
        chosen = next((place for place in dense if place.endswith("_proj")), dense[0])
        return chosen.rpartition(".")[2]

    @property
    def linear_modules(self) -> list[str]:
        """The last names of the modules inside layers that are matrices."""
        return sorted({place.rpartition(".")[2] for place in self._shapes})

    def check(self, adapter: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """See that each tensor of an adapter has its place in this model.

        Raises:
            InvalidInputError: the adapter was made for another model.
        """
        for place, half, shape in _halves(shapes):
            if place not in self._modules:
                raise InvalidInputError(
                    f"{adapter} is no adapter for {self.name}, which has no module {place}"
                )
            axis = 1 if half == "A" else 0
            fitting = {base[axis] for base in self._shapes.get(place, ())}
            if fitting and shape[axis] not in fitting:
                raise InvalidInputError(
                    f"{adapter} is no adapter for {self.name}: its {place} is "
                    f"{shape[axis]} wide, and the model's {min(fitting)}"
                )

    def _learn(self, key: str, shape: tuple[int, ...]) -> None:
        module, _, kind = key.rpartition(".")
        if (place := _place(module)) is None:
            return
        self._modules.add(place)
        if kind == "weight" and len(shape) == 2:
            self._shapes.setdefault(place, set()).add(shape)


def check_adapter(folder: Path, name: str, base: BaseModel, max_rank: int) -> None:
    """See that a folder holds an adapter that this engine can run.

    Raises:
        ArtifactCorruptError: files are missing or cannot be read.
        InvalidInputError: it is pickled, or not for this model, or larger than its engine allows.
    """
    ranks = _ranks(name, _config(folder, name))
    if max(ranks) > max_rank:
        raise InvalidInputError(
            f"{name} has rank {max(ranks)} and its engine takes up to {max_rank}: "
            "raise max_lora_rank in the job's runtime_config"
        )
    if not (folder / WEIGHTS).is_file():
        if any((folder / pickle).is_file() for pickle in _PICKLES):
            raise InvalidInputError(
                f"{name} has pickled weights, which are never loaded: convert it to safetensors"
            )
        raise ArtifactCorruptError(f"the files of {name} are not complete: no {WEIGHTS}")
    shapes = tensor_shapes(folder / WEIGHTS, name)
    if not any(".lora_" in key for key in shapes):
        raise InvalidInputError(f"{name} is no LoRA adapter: {WEIGHTS} holds no lora_ tensors")
    base.check(name, shapes)
    for place, half, shape in _halves(shapes):
        if (rank := shape[0 if half == "A" else 1]) not in ranks:
            raise InvalidInputError(f"{name}: {CONFIG} knows no rank {rank}, which {place} has")


def write_idle_adapter(folder: Path, base: BaseModel) -> None:
    """Write an adapter that changes nothing: its one module is nowhere in the model.

    vLLM wants one, with a last name that it knows.
    """
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": []}
    (folder / CONFIG).write_text(json.dumps(config))
    module = f"base_model.model.idle.{base.projection}"
    nothing = np.zeros((1, 1), np.float32)
    save_file(
        {f"{module}.lora_{half}.weight": nothing for half in "AB"},
        folder / WEIGHTS,
    )


def _config(folder: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError:
        raise ArtifactCorruptError(f"the files of {name} are not complete: no {CONFIG}") from None
    except (OSError, ValueError) as error:
        raise ArtifactCorruptError(
            f"the files of {name} cannot be read: {CONFIG}: {error}"
        ) from error
    if not isinstance(config, dict):
        raise ArtifactCorruptError(f"the files of {name} cannot be read: {CONFIG} is no object")
    return config


def _ranks(name: str, config: Mapping[str, Any]) -> set[int]:
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if any(not isinstance(rank, int) or rank < 1 for rank in ranks):
        raise InvalidInputError(f"{name}: {CONFIG} gives no rank (r) above 0")
    return set(ranks)


def _halves(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Place, half and shape of each tensor that can be compared; experts are fused."""
    for key, shape in shapes.items():
        if (found := _HALF.fullmatch(key)) is None or len(shape) != 2 or _EXPERTS in key:
            continue
        if (place := _place(found["module"])) is not None:
            yield place, found["half"], shape


def _place(module: str) -> str | None:
    found = _LAYER.search(module)
    return None if found is None else found[1]
