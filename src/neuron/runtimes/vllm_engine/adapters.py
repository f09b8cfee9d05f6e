"""The LoRA adapters that an engine was asked for."""

from __future__ import annotations

from pathlib import Path

from vllm.lora.request import LoRARequest

from ...errors import InvalidInputError
from ...models.runtime import VLLMConfig
from .adapter_files import CONFIG, WEIGHTS, BaseModel, check_adapter

_Version = tuple[str, tuple[tuple[int, int], ...]]
"""An adapter's name, and when its files were written and how large they are."""


class Adapters:
    """From an adapter's name to what vLLM runs a request with; for one thread.

    An adapter has one id for as long as its files stay what they are. vLLM keeps `max_loras`
    and reads others again when they are asked for, so the files must stay where they are.
    """

    def __init__(self, folder: Path, name: str, cache: Path, config: VLLMConfig) -> None:
        self._folder = folder
        self._model = name
        self._cache = cache
        self._config = config
        self._base: BaseModel | None = None
        self._known: dict[_Version, LoRARequest] = {}

    def find(self, name: str) -> LoRARequest:
        """The adapter, its files checked; blocks.

        Raises:
            InvalidInputError: this engine or this model cannot run it.
            ArtifactCorruptError: its files are not there, or not whole.
        """
        if not self._config.enable_lora:
            raise InvalidInputError(
                f"adapter: {self._model} was loaded without room for adapters: "
                'say "enable_lora": true in the job\'s runtime_config'
            )
        folder = self._folder_of(name)
        version = (name, _stamps(folder))
        if version not in self._known:
            if self._base is None:
                self._base = BaseModel(self._folder, self._model)
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
        number = len(self._known) + 1
        # vLLM tells adapters, and the prefixes they were read with, apart by these names.
        return LoRARequest(f"{name}#{number}", number, str(folder))


def _stamps(folder: Path) -> tuple[tuple[int, int], ...]:
    found = [file.stat() for file in (folder / CONFIG, folder / WEIGHTS) if file.is_file()]
    return tuple((stat.st_mtime_ns, stat.st_size) for stat in found)
