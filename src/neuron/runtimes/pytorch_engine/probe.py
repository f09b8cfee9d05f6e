"""Before the first job: call the model once, and see whether rows may share a call."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from ...errors import InvalidInputError, NeuronError, OutOfMemoryError, RuntimeUnavailableError
from ...models.runtime import PyTorchConfig
from ..torch_faults import first_line, is_out_of_memory
from .calling import ModelCall
from .loading import LoadedModel
from .signature import InputSpec
from .tensors import RowTensors

logger = logging.getLogger(__name__)

_FREE_SIZE = 8
_WARM_CALLS = 2
"""TorchScript optimises itself at the second call of a kind."""
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


def probe(model: LoadedModel, call: ModelCall, config: PyTorchConfig, limit: int) -> int:
    """Warm the model up with made-up rows; how many rows may share a call. Blocks.

    A model with free dimensions may not like the made-up sizes: then that shows at the first job.

    Raises:
        NeuronError: the model cannot run as its signature and this config say.
    """
    fixed = model.signature.fixed_batch
    limit = limit if fixed is None else min(limit, fixed)
    rows = [_row(model, seed) for seed in range(min(limit, 2))]
    try:
        alone = [call([row])[0] for row in rows]
    except Exception as error:
        failure = _failure(error, model, config)
        if any(spec.has_free_dimension for spec in model.signature.inputs):
            logger.warning("the model was not warmed up: %s", failure)
            return limit
        raise failure from error
    if limit == 1:
        return 1
    try:
        together = call(rows)
        for _ in range(_WARM_CALLS):
            call([rows[0]] * limit)
    except Exception as error:  # noqa: BLE001 -- alone it works
        logger.warning("rows cannot share a call (%s): one row at a time", first_line(error))
        return 1
    if not _agree(alone, together):
        logger.warning("answers change when rows share a call: one row at a time")
        return 1
    return limit


def _row(model: LoadedModel, seed: int) -> RowTensors:
    return {spec.name: _sample(spec, seed) for spec in model.signature.inputs}


def _sample(spec: InputSpec, seed: int) -> torch.Tensor:
    shape = [_FREE_SIZE if size < 0 else size for size in spec.row_shape]
    dtype = spec.torch_dtype
    low = spec.minimum or 0.0
    if dtype.is_floating_point:
        high = low + 1 if spec.maximum is None else spec.maximum
        generator = torch.Generator().manual_seed(seed)
        return (low + (high - low) * torch.rand(shape, generator=generator)).to(dtype)
    if dtype == torch.bool:
        return torch.ones(shape, dtype=dtype)
    value = low if spec.maximum is None or seed % 2 == 0 else spec.maximum
    return torch.full(shape, int(value), dtype=dtype)


def _agree(alone: Sequence[RowTensors], together: Sequence[RowTensors]) -> bool:
    for one, other in zip(alone, together, strict=True):
        for name, tensor in one.items():
            if tensor.shape != other[name].shape:
                return False
            tolerance = _TOLERANCE.get(tensor.dtype, 0.0)
            first, second = tensor.double(), other[name].double()
            scale = float(first.nan_to_num(0, 0, 0).abs().max()) if first.numel() else 0.0
            if not torch.allclose(
                first, second, rtol=0, atol=tolerance * max(scale, 1e-6), equal_nan=True
            ):
                return False
    return True


def _failure(error: Exception, model: LoadedModel, config: PyTorchConfig) -> NeuronError:
    if isinstance(error, NeuronError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(f"{model.name} does not fit into memory: {first_line(error)}")
    if config.compile:
        return RuntimeUnavailableError(
            f"compile: {model.name} cannot be compiled on this worker: {first_line(error)}"
        )
    asked = "use_amp" if config.use_amp else f"dtype {config.dtype}"
    if config.use_amp or config.dtype != "auto":
        return InvalidInputError(f"{model.name} cannot run with {asked}: {first_line(error)}")
    return InvalidInputError(
        f"{model.name} cannot be called as its signature.json says: {first_line(error)}"
    )
