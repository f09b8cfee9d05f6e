"""JSON to tensors and back; every refusal names the input, what was expected and what came."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import torch

from ...errors import InvalidInputError
from .signature import InputSpec, OutputSpec, Signature, show_shape

_TENSOR_KEYS = {"b64", "dtype", "shape"}
_NON_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}
_DIGITS = {torch.float32: 9, torch.float16: 5, torch.bfloat16: 4}
"""So many digits tell every number of the dtype from its neighbours."""

RowTensors = dict[str, torch.Tensor]


def read_row(row: Mapping[str, Any], signature: Signature, where: str) -> RowTensors:
    """A row's tensors, one for every input, without the batch dimension.

    Raises:
        InvalidInputError: one is missing, unknown, or not what the signature says.
    """
    wanted = [spec.name for spec in signature.inputs]
    if unknown := sorted(set(row) - set(wanted)):
        raise InvalidInputError(
            f"{where}: the model has no input {unknown[0]!r} (it reads {', '.join(wanted)})"
        )
    tensors = {}
    for spec in signature.inputs:
        if spec.name not in row:
            raise InvalidInputError(f"{where}.{spec.name} is missing: expected {spec}")
        tensors[spec.name] = read_tensor(row[spec.name], spec, f"{where}.{spec.name}")
    return tensors


def read_tensor(value: Any, spec: InputSpec, where: str) -> torch.Tensor:
    """One input of one row: nested arrays of numbers, or {"b64", "dtype", "shape"}.

    Raises:
        InvalidInputError: it is not what the signature says.
    """
    if isinstance(value, Mapping):
        tensor = _from_object(value, spec, where)
    else:
        tensor = _from_arrays(value, spec, where)
    if not spec.fits(tensor.shape):
        _refuse(spec, where, f"shape {show_shape(tensor.shape)}")
    _check_range(tensor, spec, where)
    return tensor


def to_json(tensor: torch.Tensor, spec: OutputSpec) -> tuple[Any, int]:
    """A row's output for JSON, and how many of its numbers JSON does not have.

    Those are told as "NaN", "Infinity" and "-Infinity"; the others have as many digits as they
    need to be read back exactly.
    """
    if spec.encoding == "base64":
        raw = tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else tensor
        data = base64.b64encode(bytes(raw.tolist())).decode() if tensor.numel() else ""
        return {"b64": data, "dtype": spec.dtype, "shape": list(tensor.shape)}, 0
    values = tensor.tolist()
    if not tensor.is_floating_point():
        return values, 0
    strange = int((~torch.isfinite(tensor)).sum())
    return _told(values, _DIGITS.get(tensor.dtype, 17)), strange


def number_to_json(value: float) -> float | str:
    """A number, or its name if JSON has no such number."""
    return value if math.isfinite(value) else _NON_FINITE.get(value, "NaN")


def _told(values: Any, digits: int) -> Any:
    if isinstance(values, list):
        return [_told(value, digits) for value in values]
    return float(f"{values:.{digits}g}") if math.isfinite(values) else number_to_json(values)


def _from_object(value: Mapping[str, Any], spec: InputSpec, where: str) -> torch.Tensor:
    if "engram" in value:
        raise InvalidInputError(
            f"{where}: this worker does not fetch inputs from ENGRAM; "
            "send nested arrays or a base64 tensor"
        )
    if set(value) != _TENSOR_KEYS:
        keys = ", ".join(sorted(map(str, value))) or "nothing"
        _refuse(spec, where, f"an object with {keys}; a base64 tensor has b64, dtype and shape")
    if value["dtype"] != spec.dtype:
        _refuse(spec, where, f"dtype {str(value['dtype'])[:40]}")
    shape = value["shape"]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        _refuse(spec, where, f"the shape {str(shape)[:80]}")
    if not spec.fits(shape):
        _refuse(spec, where, f"shape {show_shape(shape)}")
    try:
        data = base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        _refuse(spec, where, "a b64 that is not base64")
    size = math.prod(shape) * spec.torch_dtype.itemsize
    if len(data) != size:
        _refuse(spec, where, f"{len(data)} bytes where {show_shape(shape)} has {size}")
    if not data:
        return torch.empty(shape, dtype=spec.torch_dtype)
    if spec.dtype == "bool" and max(data) > 1:
        _refuse(spec, where, "a byte that is neither 0 nor 1")
    return torch.frombuffer(bytearray(data), dtype=spec.torch_dtype).reshape(shape)


def _from_arrays(value: Any, spec: InputSpec, where: str) -> torch.Tensor:
    if not isinstance(value, list | int | float):
        _refuse(spec, where, _describe(value))
    try:
        seen = torch.tensor(value)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        _refuse(spec, where, _describe(value, str(error)))
    came = _kind(seen.dtype)
    wanted = _kind(spec.torch_dtype)
    if seen.numel() and came != wanted and (came, wanted) != ("whole numbers", "numbers"):
        _refuse(spec, where, f"{came} of shape {show_shape(seen.shape)}")
    if not spec.fits(seen.shape):
        _refuse(spec, where, f"shape {show_shape(seen.shape)}")
    tensor = torch.tensor(value, dtype=spec.torch_dtype) if wanted == "numbers" else None
    if not _is_in_range(seen if tensor is None else tensor, spec.torch_dtype):
        _refuse(spec, where, "a number out of its range")
    return seen.to(spec.torch_dtype) if tensor is None else tensor


def _is_in_range(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    if dtype.is_floating_point:
        return bool(torch.isfinite(tensor).all())
    if dtype == torch.bool or not tensor.numel():
        return True
    limits = torch.iinfo(dtype)
    return bool(int(tensor.min()) >= limits.min and int(tensor.max()) <= limits.max)


def _check_range(tensor: torch.Tensor, spec: InputSpec, where: str) -> None:
    if (spec.minimum is None and spec.maximum is None) or not tensor.numel():
        return
    low, high = tensor.min().item(), tensor.max().item()
    if spec.minimum is not None and low < spec.minimum:
        _refuse(spec, where, f"{low:g}, below the minimum {spec.minimum:g}")
    if spec.maximum is not None and high > spec.maximum:
        _refuse(spec, where, f"{high:g}, above the maximum {spec.maximum:g}")


def _kind(dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "booleans"
    return "numbers" if dtype.is_floating_point else "whole numbers"


def _describe(value: Any, error: str = "") -> str:
    if value is None:
        return "null"
    if isinstance(value, str) or "'str'" in error:
        return "text"
    if "NoneType" in error:
        return "a null among the numbers"
    if "dict" in error:
        return "an object among the numbers"
    if "expected sequence of length" in error or "not a sequence" in error:
        return "lists of different lengths"
    if "verflow" in error:
        return "a number out of its range"
    return "no array of numbers"


def _refuse(spec: InputSpec, where: str, came: str) -> NoReturn:
    raise InvalidInputError(
        f"{where}: expected {spec}, got {came}", input=spec.name, expected=str(spec), got=came
    )
