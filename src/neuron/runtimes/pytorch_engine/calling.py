"""Rows in, one call of the model, rows out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ...errors import InvalidInputError
from .loading import LoadedModel
from .signature import InputSpec, OutputSpec, show_shape
from .tensors import RowTensors

StackKey = tuple[tuple[int, ...], ...]


class ModelCall:
    """Calls a model with stacked rows; belongs to one thread at a time."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._signature = model.signature

    def key(self, row: RowTensors) -> StackKey:
        """Rows with the same key fit into one call."""
        return tuple(
            tuple(spec.row_shape) if spec.pad is not None else tuple(row[spec.name].shape)
            for spec in self._signature.inputs
        )

    def __call__(self, rows: Sequence[RowTensors]) -> list[RowTensors]:
        """The outputs of every row, on the CPU.

        Raises:
            InvalidInputError: the model answers something else than its signature says.
            Exception: whatever the model itself raises.
        """
        inputs = {spec.name: self._stack(spec, rows) for spec in self._signature.inputs}
        with torch.inference_mode(), self._autocast():
            positional = self._model.positional or []
            arguments = [inputs.pop(name) for name in positional]
            answer = self._model.call(*arguments, **inputs)
            outputs = self._outputs(answer)
            checked = [self._check(spec, outputs, rows) for spec in self._signature.outputs]
        return [
            {spec.name: tensor[place] for spec, tensor in checked} for place in range(len(rows))
        ]

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self._model.use_amp:
            return nullcontext()
        kind = self._model.device.type
        dtype = torch.float16 if kind == "cuda" else torch.bfloat16
        context: AbstractContextManager[Any] = torch.autocast(kind, dtype=dtype)
        return context

    def _stack(self, spec: InputSpec, rows: Sequence[RowTensors]) -> torch.Tensor:
        tensors = [row[spec.name] for row in rows]
        if len({tuple(tensor.shape) for tensor in tensors}) > 1:
            tensors = _padded(tensors, spec)
        if (size := self._signature.fixed_batch) is not None:
            tensors += [tensors[-1]] * (size - len(tensors))
        stacked = torch.stack(tensors)
        dtype = self._model.dtype if stacked.is_floating_point() else None
        return stacked.to(device=self._model.device, dtype=dtype)

    def _outputs(self, answer: Any) -> Mapping[str, Any]:
        specs = self._signature.outputs
        if isinstance(answer, Mapping):
            return answer
        values = list(answer) if isinstance(answer, tuple | list) else [answer]
        if len(values) != len(specs):
            raise InvalidInputError(
                f"{self._model.name} answers with {len(values)} tensors, and its signature.json "
                f"names {len(specs)}"
            )
        return {spec.name: value for spec, value in zip(specs, values, strict=True)}

    def _check(
        self, spec: OutputSpec, outputs: Mapping[str, Any], rows: Sequence[RowTensors]
    ) -> tuple[OutputSpec, torch.Tensor]:
        tensor = outputs.get(spec.name)
        if not isinstance(tensor, torch.Tensor):
            raise self._mismatch(spec, "is not among the model's answers")
        size = self._signature.fixed_batch or len(rows)
        if tensor.dim() == 0 or tensor.shape[0] != size or not spec.fits(tensor.shape[1:]):
            shape = show_shape(tensor.shape)
            raise self._mismatch(spec, f"has the shape {shape} for a batch of {size}")
        wanted = spec.torch_dtype
        same_kind = tensor.is_floating_point() == wanted.is_floating_point
        if not same_kind or (not wanted.is_floating_point and tensor.dtype != wanted):
            raise self._mismatch(spec, f"has the dtype {tensor.dtype}".replace("torch.", ""))
        return spec, tensor.detach().to(device="cpu", dtype=wanted)

    def _mismatch(self, spec: OutputSpec, what: str) -> InvalidInputError:
        return InvalidInputError(
            f"the output {spec.name} of {self._model.name} {what}, and its signature.json says "
            f"{spec.dtype} of shape {show_shape(spec.shape)}"
        )


def _padded(tensors: Sequence[torch.Tensor], spec: InputSpec) -> list[torch.Tensor]:
    sizes = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        filled = torch.full(sizes, spec.pad or 0, dtype=spec.torch_dtype)
        filled[tuple(slice(0, size) for size in tensor.shape)] = tensor
        padded.append(filled)
    return padded
