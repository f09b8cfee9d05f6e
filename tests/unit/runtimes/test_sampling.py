"""Tokens are drawn as the parameters say, and as the seed says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron.models.sampling import SamplingParameters
from neuron.runtimes.transformers_engine.sampling import (
    NOT_A_TOKEN,
    Draw,
    Penalties,
    sample,
    uniform,
)

DRAWS = 4000


def draw(index: int = 0, seed: int = 1, **parameters: Any) -> Draw:
    defaults = {"temperature": 1.0, "top_p": 1.0}
    return Draw(SamplingParameters(**{**defaults, **parameters}), seed, index)


def frequencies(logits: torch.Tensor, **parameters: Any) -> torch.Tensor:
    rows = logits.expand(DRAWS, -1)
    tokens = sample(rows, [draw(index, **parameters) for index in range(DRAWS)])
    return torch.bincount(torch.tensor(tokens), minlength=logits.shape[-1]) / DRAWS


def test_temperature_zero_takes_the_best() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert sample(logits, [draw(temperature=0), draw(temperature=0)]) == [1, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    expected = torch.softmax(logits / temperature, 0)
    assert torch.allclose(frequencies(logits, temperature=temperature), expected, atol=0.03)


def test_top_k_keeps_k_and_their_proportions() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    got = frequencies(logits, top_k=2)
    expected = torch.softmax(torch.tensor([1.0, 2.0]), 0)
    assert got[1] == got[2] == 0
    assert torch.allclose(got[[0, 3]], expected, atol=0.03)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert (frequencies(logits, top_p=0.45) > 0).tolist() == [True, False, False, False]
    assert (frequencies(logits, top_p=0.6) > 0).tolist() == [True, True, False, False]
    assert (frequencies(logits, top_p=0.9) > 0).tolist() == [True, True, True, False]


def test_top_p_works_on_what_top_k_left() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    # Of the two best, the first holds 0.4 / 0.7 = 0.57 of the mass.
    assert (frequencies(logits, top_k=2, top_p=0.5) > 0).tolist() == [True, False, False, False]


def test_min_p_is_relative_to_the_best() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert (frequencies(logits, min_p=0.25) > 0).tolist() == [True, True, True, False]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    top_p=st.floats(0.05, 1),
    top_k=st.integers(-1, 3000),
    min_p=st.floats(0, 0.5),
)
def test_few_candidates_give_what_a_full_sort_gives(
    seed: int, top_p: float, top_k: int, min_p: float
) -> None:
    torch.manual_seed(seed % 1000)
    logits = torch.randn(1, 5000)
    one = draw(seed=seed, top_p=top_p, top_k=top_k, min_p=min_p)
    token = sample(logits, [one])[0]
    mass, order = torch.softmax(logits[0].double(), 0).sort(descending=True)
    if top_k > 0:
        mass[top_k:] = 0
    allowed = (mass.cumsum(0) - mass < top_p * mass.sum() + 1e-6) & (mass >= min_p * mass[0] - 1e-9)
    assert token in order[allowed].tolist()


def test_a_seed_gives_the_same_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 1000)
    draws = [
        draw(3, seed=11, temperature=0.8, top_p=0.9),
        draw(4, seed=12, temperature=0),
        draw(5, seed=13, top_k=40),
        draw(6, seed=14),
        draw(7, seed=15, min_p=0.1),
        draw(8, seed=16, temperature=1.5, top_p=0.99),
    ]
    together = sample(logits, draws)
    assert together == [sample(logits[i : i + 1], [one])[0] for i, one in enumerate(draws)]


def test_the_uniform_numbers_are_uniform_and_their_own() -> None:
    numbers = torch.tensor([uniform(5, index) for index in range(20_000)], dtype=torch.float64)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert torch.allclose(
        torch.histc(numbers, 10, 0, 1) / 20_000, torch.full((10,), 0.1, dtype=torch.float64),
        atol=0.01,
    )  # fmt: skip
    others = torch.tensor([uniform(6, index) for index in range(20_000)], dtype=torch.float64)
    assert abs(torch.corrcoef(torch.stack([numbers, others]))[0, 1]) < 0.03
    assert abs(torch.corrcoef(torch.stack([numbers[1:], numbers[:-1]]))[0, 1]) < 0.03


def test_penalties_are_those_of_their_definitions() -> None:
    logits = torch.tensor([2.0, -2.0, 1.0, 0.5])
    penalties = Penalties.of([0, 1], [2, 2], logits)
    for name, value, expected in [
        ("repetition_penalty", 2.0, [1.0, -4.0, 0.5, 0.5]),
        ("presence_penalty", 0.5, [2.0, -2.0, 0.5, 0.5]),
        ("frequency_penalty", 0.5, [2.0, -2.0, 0.0, 0.5]),
    ]:
        changed = logits.clone()
        penalties.apply(changed, SamplingParameters.model_validate({name: value}))
        assert changed.tolist() == expected, name


def test_forbidden_tokens_are_never_drawn() -> None:
    one = Draw(SamplingParameters(temperature=0), 1, 0, forbidden=(1,))
    assert sample(torch.tensor([[0.0, 9.0, 1.0]]), [one]) == [2]


def test_logits_that_are_no_numbers_spoil_their_own_row_only() -> None:
    logits = torch.tensor([[float("nan"), 1.0], [0.0, 1.0]])
    for temperature in (0.0, 1.0):
        tokens = sample(logits, [draw(temperature=temperature), draw(temperature=0)])
        assert tokens == [NOT_A_TOKEN, 1]
