"""Text through the artifact's tokenizer.json: data only, no code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from ...errors import ArtifactCorruptError, InvalidInputError, RuntimeUnavailableError
from .signature import Signature
from .tensors import RowTensors, read_tensor

FILE_NAME = "tokenizer.json"
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"


class TextReader:
    """Makes a row of a text, for models that read input_ids."""

    def __init__(self, folder: Path, signature: Signature, model: str) -> None:
        self._signature = signature
        self._model = model
        self._reason: str | None = None
        self._tokenizer: Any = None
        names = {spec.name for spec in signature.inputs}
        path = folder / FILE_NAME
        if IDS not in names or names - {IDS, MASK, TYPES}:
            self._reason = f"{model} does not read text, but {', '.join(sorted(names))}"
        elif any(len(spec.row_shape) != 1 for spec in signature.inputs):
            self._reason = f"{model} reads its input_ids in another shape than one row of tokens"
        elif not path.is_file():
            self._reason = f"{model} has no {FILE_NAME}: send {', '.join(sorted(names))}"
        else:
            self._tokenizer = _load(path, model)
            padding = self._tokenizer.padding or {}
            self._pad_id = int(padding.get("pad_id", 0))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()

    def row(self, text: str, where: str) -> RowTensors:
        """The text's tokens as the model's inputs.

        Raises:
            InvalidInputError: the model does not read text, or not as much of it.
        """
        if self._reason is not None:
            raise InvalidInputError(f"{where}: {self._reason}")
        encoding = self._tokenizer.encode(
            text, add_special_tokens=self._signature.text.special_tokens
        )
        count, limit = len(encoding.ids), self._max_tokens
        if limit is not None and count > limit:
            raise InvalidInputError(
                f"{where}: the text has {count} tokens and {self._model} reads at most {limit}"
            )
        if not count:
            raise InvalidInputError(f"{where}: the text has no tokens")
        columns = {IDS: encoding.ids, MASK: encoding.attention_mask, TYPES: encoding.type_ids}
        fillers = {IDS: self._pad_id, MASK: 0, TYPES: 0}
        row = {}
        for spec in self._signature.inputs:
            values = list(columns[spec.name])
            filler = fillers[spec.name] if spec.pad is None else int(spec.pad)
            values += [filler] * (spec.row_shape[0] - len(values))
            tensor = torch.tensor(values).to(spec.torch_dtype)
            row[spec.name] = read_tensor(tensor.tolist(), spec, f"{where}.{spec.name}")
        return row

    @property
    def _max_tokens(self) -> int | None:
        sizes = [spec.row_shape[0] for spec in self._signature.inputs]
        limits = [size for size in sizes if size >= 0]
        if self._signature.text.max_tokens is not None:
            limits.append(self._signature.text.max_tokens)
        return min(limits, default=None)


def _load(path: Path, model: str) -> Any:
    if importlib.util.find_spec("tokenizers") is None:
        raise RuntimeUnavailableError(
            f"{model} has a {FILE_NAME}, which needs the package tokenizers on the worker"
        )
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        raise ArtifactCorruptError(f"the {FILE_NAME} of {model} cannot be read: {error}") from error
