"""Packed layers compute what plain ones do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from neuron.runtimes.transformers_engine.packing import PackedLinear, can_pack, pack_linears

pytestmark = pytest.mark.skipif(not can_pack(), reason="this CPU has no packed layout")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (2, 5)])
def test_a_packed_layer_gives_the_plain_one_s_output(
    dtype: torch.dtype, bias: bool, shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=bias).to(dtype)
    states = torch.randn(*shape, 48).to(dtype)
    with torch.inference_mode():
        packed = PackedLinear(linear)(states)
        assert packed.shape == (*shape, 80)
        assert torch.allclose(packed, linear(states), atol=1e-5 if dtype is torch.float32 else 0.02)


def test_all_linear_layers_of_a_model_are_packed_and_nothing_else() -> None:
    class Odd(nn.Linear):  # type: ignore[misc]  # torch is untyped here
        pass

    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)), Odd(2, 2))
    plain = copy.deepcopy(model)
    states = torch.randn(3, 4)
    with torch.inference_mode():
        assert pack_linears(model) == 2
        assert isinstance(model[3], Odd)
        assert torch.allclose(model(states), plain(states), atol=1e-6)
