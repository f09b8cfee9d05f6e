"""The log-probabilities that the model itself gives: before temperature, penalties, filters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON has no number for."""


@dataclass(frozen=True, slots=True)
class Score:
    """What the model thought of one token of an answer."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The most probable tokens, best first."""

    @property
    def is_number(self) -> bool:
        """False where the model's output was not a number."""
        return not math.isnan(self.logprob)


def score(logits: torch.Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[Score]:
    """Score a token of each row of `logits` ([rows, vocabulary]) with so many alternatives.

    One copy from the device.
    """
    logprobs = torch.log_softmax(logits.to(torch.float32), dim=-1)
    logprobs = logprobs.clamp_min_(_LOWEST)
    most = min(max(tops), logprobs.shape[-1])
    best, best_tokens = logprobs.topk(most, dim=-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])
    # A float32 holds every token id that there is.
    table = torch.cat([chosen, best, best_tokens.to(torch.float32)], dim=1).tolist()
    return [
        Score(row[0], tuple(zip(map(int, row[1 + most : 1 + most + top]), row[1:], strict=False)))
        for row, top in zip(table, tops, strict=True)
    ]


def score_prompt(logits: torch.Tensor, prompt: Sequence[int], start: int, top: int) -> list[Score]:
    """Score the tokens that follow those that were read: `logits` ([tokens, vocabulary]) stand
    behind the prompt's tokens from `start` on. What follows the prompt is not scored.
    """
    tokens = prompt[start + 1 : start + 1 + len(logits)]
    if not tokens:
        return []
    return score(logits[: len(tokens)], tokens, [top] * len(tokens))


def prompt_entries(
    prompt: Sequence[int], scores: Sequence[Score], spell: Callable[[int], str]
) -> list[dict[str, Any]]:
    """What metadata["prompt_logprobs"] holds: as below; nothing goes before the first token."""
    first = {"token_id": prompt[0], "token": spell(prompt[0]), "logprob": None, "top": []}
    return [first, *entries(prompt[1:], scores, spell)]


def entries(
    tokens: Sequence[int], scores: Sequence[Score], spell: Callable[[int], str]
) -> list[dict[str, Any]]:
    """What JobOutput.metadata["logprobs"] holds: one object for each token."""
    return [
        {**_entry(token, one.logprob, spell), "top": [_entry(*each, spell) for each in one.top]}
        for token, one in zip(tokens, scores, strict=True)
    ]


def _entry(token: int, logprob: float, spell: Callable[[int], str]) -> dict[str, Any]:
    return {"token_id": token, "token": spell(token), "logprob": logprob}
