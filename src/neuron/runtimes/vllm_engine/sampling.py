"""From our sampling parameters to vLLM's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ...models.sampling import SamplingParameters

_GOLDEN = 0x9E3779B97F4A7C15


def sampling_arguments(
    parameters: SamplingParameters,
    *,
    max_tokens: int,
    end_tokens: Sequence[int],
    resumed: Sequence[int] = (),
) -> dict[str, Any]:
    """What vLLM's SamplingParams is told.

    `max_tokens` counts the whole answer, the resumed tokens included, which vLLM reads as part
    of the prompt. Text is none of vLLM's business: stop strings and characters cut in two are
    handled by the same code on every runtime. Needs at least one token to go.
    """
    left = max_tokens - len(resumed)
    arguments: dict[str, Any] = {
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "top_k": max(0, parameters.top_k),
        "min_p": parameters.min_p,
        "repetition_penalty": parameters.repetition_penalty,
        "presence_penalty": parameters.presence_penalty,
        "frequency_penalty": parameters.frequency_penalty,
        "max_tokens": left,
        # Without an end there is nothing to forbid, but vLLM would forbid the model's own.
        "min_tokens": min(max(0, parameters.min_tokens - len(resumed)), left) if end_tokens else 0,
        "seed": _seed(parameters.seed, len(resumed)),
        # The model's end tokens are named one by one, so that all runtimes end at the same.
        "ignore_eos": True,
        "stop_token_ids": list(end_tokens),
        "detokenize": False,
    }
    if bias := _bias(parameters, resumed):
        arguments["logit_bias"] = bias
    return arguments


def _seed(seed: int | None, resumed: int) -> int | None:
    """A sequence of its own for the rest of an answer: vLLM's cannot be wound forward."""
    if seed is None or not resumed:
        return seed
    return (seed + resumed * _GOLDEN) % 2**63


def _bias(parameters: SamplingParameters, resumed: Sequence[int]) -> dict[int, float]:
    """What the job adds to tokens' logits, less the penalties of the resumed tokens: vLLM counts
    those as prompt, which frequency and presence penalties leave alone.
    """
    bias = dict(parameters.logit_bias)
    frequency, presence = parameters.frequency_penalty, parameters.presence_penalty
    if frequency or presence:
        for token, count in Counter(resumed).items():
            bias[token] = bias.get(token, 0.0) - (frequency * count + presence)
    return bias
