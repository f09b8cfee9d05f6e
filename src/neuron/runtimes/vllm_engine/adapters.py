"""The LoRA adapters that an engine was asked for."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from vllm.lora.request import LoRARequest

from ...errors import InvalidInputError
from ...models.runtime import VLLMConfig
from .adapter_files import CONFIG, WEIGHTS, BaseModel, check_adapter, write_idle_adapter

_Version = tuple[str, tuple[tuple[int, int], ...]]
"""An adapter's name, and when its files were written and how large they are."""


class Adapters:
    """From an adapter's name to what vLLM runs a request with; for one thread.

    An adapter has one id for as long as its files stay what they are. vLLM keeps `max_loras`
    and reads others again when they are asked for, so the files must stay where they are.
    """

    def __init__(
        self, folder: Path, name: str, cache: Path, config: VLLMConfig, *, is_cpu: bool
    ) -> None:
        self._model = name
        self._cache = cache
        self._config = config
        self._base = BaseModel(folder, name) if config.enable_lora else None
        self._known: dict[_Version, LoRARequest] = {}
        self._idle = _idle_adapter(self._base) if is_cpu and self._base is not None else None

    @property
    def cpu_arguments(self) -> dict[str, Any]:
        """What AsyncEngineArgs is told on a CPU, so that the output layer takes no adapters.

        There vLLM 0.32 cannot read the log-probabilities of a prompt through an output layer that
        does: its core dies. Adapters for that layer are refused.
        """
        return {} if self._base is None else {"lora_target_modules": self._base.linear_modules}

    def find(self, name: str | None) -> LoRARequest | None:
        """The adapter, its files checked, or what stands for none; blocks.

        Raises:
            InvalidInputError: this engine or this model cannot run it.
            ArtifactCorruptError: its files are not there, or not whole.
        """
        return self._idle if name is None else self._named(name)

    def _named(self, name: str) -> LoRARequest:
        if self._base is None:
            raise InvalidInputError(
                f"adapter: {self._model} was loaded without room for adapters: "
                'say "enable_lora": true in the job\'s runtime_config'
            )
        folder = self._folder_of(name)
        version = (name, _stamps(folder))
        if version not in self._known:
            check_adapter(folder, name, self._base, self._config.max_lora_rank)
            self._known[version] = self._request(name, folder)
        return self._known[version]

    def _folder_of(self, name: str) -> Path:
        family, _, version = name.partition(":")
        folder = self._cache / family / version
        if not folder.resolve().is_relative_to(self._cache.resolve()):
            raise InvalidInputError(f"adapter: {name!r} is no name of an adapter")
        return folder

    def _request(self, name: str, folder: Path) -> LoRARequest:
        number = len(self._known) + 2
        # vLLM tells adapters, and the prefixes they were read with, apart by these names.
        return LoRARequest(f"{name}#{number}", number, str(folder))


def _idle_adapter(base: BaseModel) -> LoRARequest:
    """What a request without an adapter gets on a CPU: there vLLM 0.32 gives it the adapter
    that is in its last place, when others in the batch have one.
    """
    folder = Path(tempfile.gettempdir()) / "idle-adapter"
    write_idle_adapter(folder, base)
    return LoRARequest("idle#1", 1, str(folder))


def _stamps(folder: Path) -> tuple[tuple[int, int], ...]:
    found = [file.stat() for file in (folder / CONFIG, folder / WEIGHTS) if file.is_file()]
    return tuple((stat.st_mtime_ns, stat.st_size) for stat in found)
