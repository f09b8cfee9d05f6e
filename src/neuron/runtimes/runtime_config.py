"""A job's runtime_config, checked before any process is started for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ..errors import InvalidInputError
from ..models.runtime import (
    CONFIG_BY_RUNTIME,
    PyTorchConfig,
    RuntimeConfig,
    RuntimeType,
    TransformersConfig,
)
from .base import EngineSettings

SPREAD_MAPS = frozenset({"auto", "balanced", "balanced_low_0", "sequential"})
"""Device maps that divide a model among several GPUs."""
_DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?|mps")


def check_config(
    runtime: RuntimeType, config: Mapping[str, Any], settings: EngineSettings
) -> RuntimeConfig:
    """The config with its defaults filled in.

    Raises:
        InvalidInputError: a field is unknown or wrong, or asks for what only the operator decides.
    """
    try:
        parsed = CONFIG_BY_RUNTIME[runtime].model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        where = ": ".join(["runtime_config", *(str(part) for part in first["loc"])])
        raise InvalidInputError(f"{where}: {first['msg']}") from error
    if getattr(parsed, "trust_remote_code", False) and not settings.allow_remote_code:
        raise InvalidInputError(
            "trust_remote_code is the worker operator's decision: this worker runs no code from "
            "models (its operator can allow it with NEURON_ALLOW_REMOTE_CODE=true)"
        )
    if isinstance(parsed, TransformersConfig | PyTorchConfig):
        _check_device(parsed.device)
    if isinstance(parsed, TransformersConfig):
        _check_device_map(parsed)
    if isinstance(parsed, PyTorchConfig):
        _check_amp(parsed)
    return parsed


def _check_device(device: str) -> None:
    if device != "auto" and not _DEVICE.fullmatch(device):
        raise InvalidInputError(
            f"runtime_config: device: {device!r} is not auto, cpu, cuda, cuda:N or mps"
        )


def _check_amp(config: PyTorchConfig) -> None:
    if config.use_amp and config.dtype in {"float16", "bfloat16"}:
        raise InvalidInputError(
            f"runtime_config: use_amp keeps the weights in float32 and dtype asks for "
            f"{config.dtype}: give one of them"
        )


def _check_device_map(config: TransformersConfig) -> None:
    device_map = config.device_map
    if (
        device_map is not None
        and device_map not in SPREAD_MAPS
        and not _DEVICE.fullmatch(device_map)
    ):
        raise InvalidInputError(
            f"runtime_config: device_map: {device_map!r} is not a device or one of "
            f"{', '.join(sorted(SPREAD_MAPS))}"
        )
