"""Drawing the next token of many rows at once.

A row's randomness depends on its seed and on how many tokens it has, on nothing else: the same
seed gives the same answer alone, in any batch, and when another worker goes on with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...models.sampling import SamplingParameters

NOT_A_TOKEN = -1
"""Drawn for a row whose logits are not numbers."""
_FIRST_CANDIDATES = 64
_MASK64 = 2**64 - 1


@dataclass(slots=True)
class Penalties:
    """What a row has seen, for the parameters that look back."""

    seen: torch.Tensor
    """Whether a token is in the prompt or the answer: [vocabulary], bool."""
    counts: torch.Tensor
    """How often a token is in the answer: [vocabulary]."""

    @classmethod
    def of(cls, prompt: Sequence[int], answer: Sequence[int], logits: torch.Tensor) -> Penalties:
        """For a row with that prompt and that answer so far."""
        size = logits.shape[-1]
        seen = torch.zeros(size, dtype=torch.bool, device=logits.device)
        seen[torch.tensor([*prompt, *answer], device=logits.device)] = True
        tokens = torch.tensor(list(answer), dtype=torch.long, device=logits.device)
        counts = torch.bincount(tokens, minlength=size).to(torch.float32)
        return cls(seen, counts)

    def add(self, token: int) -> None:
        """The answer grew."""
        self.seen[token] = True
        self.counts[token] += 1

    def apply(self, logits: torch.Tensor, parameters: SamplingParameters) -> None:
        """Change one row's logits in place."""
        if parameters.repetition_penalty != 1.0:
            penalty = parameters.repetition_penalty
            scaled = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits.copy_(torch.where(self.seen, scaled, logits))
        if parameters.frequency_penalty:
            logits.sub_(self.counts, alpha=parameters.frequency_penalty)
        if parameters.presence_penalty:
            logits.sub_((self.counts > 0).to(logits.dtype), alpha=parameters.presence_penalty)


def looks_back(parameters: SamplingParameters) -> bool:
    """Whether drawing depends on the tokens before."""
    return (
        parameters.repetition_penalty != 1.0
        or parameters.presence_penalty != 0.0
        or parameters.frequency_penalty != 0.0
    )


@dataclass(slots=True)
class Draw:
    """What the sampler must know of one row for its next token."""

    parameters: SamplingParameters
    seed: int
    index: int
    """How many tokens the answer has already."""
    forbidden: Sequence[int] = ()
    penalties: Penalties | None = None
    allowed: torch.Tensor | None = None
    """The only tokens that may come, where a grammar decides: [vocabulary], bool, on the CPU."""


def uniform(seed: int, index: int) -> float:
    """The index-th number in [0, 1) of the seed's sequence (SplitMix64, in counter mode)."""
    z = (seed * 0xD1342543DE82EF95 + (index + 1) * 0x9E3779B97F4A7C15) & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return ((z ^ (z >> 31)) >> 11) / 2**53


def sample(logits: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
    """One token per row of `logits` ([rows, vocabulary]); one copy from the device."""
    logits = logits.to(torch.float32, copy=True)
    for row, draw in enumerate(draws):
        if bias := draw.parameters.logit_bias:
            logits[row, list(bias)] += torch.tensor(list(bias.values()), device=logits.device)
        if draw.penalties is not None:
            draw.penalties.apply(logits[row], draw.parameters)
        if draw.forbidden:
            logits[row, list(draw.forbidden)] = -torch.inf
        if draw.allowed is not None:
            logits[row].masked_fill_(~draw.allowed.to(logits.device), -torch.inf)
    best, tokens = logits.max(dim=-1)
    drawn = [row for row, draw in enumerate(draws) if draw.parameters.temperature > 0]
    if drawn:
        rows = torch.tensor(drawn, device=logits.device)
        chosen = logits if len(drawn) == len(draws) else logits[rows]
        tokens[rows] = _draw(chosen, [draws[row] for row in drawn])
    tokens = torch.where(torch.isfinite(best), tokens, NOT_A_TOKEN)
    return [int(token) for token in tokens.tolist()]


def _draw(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    device = logits.device
    temperature = torch.tensor([draw.parameters.temperature for draw in draws], device=device)
    probabilities = torch.softmax(logits / temperature.clamp_min(1e-4)[:, None], dim=-1)
    points = torch.tensor([uniform(draw.seed, draw.index) for draw in draws], device=device)
    tokens = torch.zeros(len(draws), dtype=torch.long, device=device)
    filtered = [row for row, draw in enumerate(draws) if _is_filtered(draw, logits.shape[-1])]
    whole = [row for row in range(len(draws)) if row not in set(filtered)]
    if whole:
        rows = torch.tensor(whole, device=device)
        tokens[rows] = _invert(probabilities[rows], points[rows])
    if filtered:
        rows = torch.tensor(filtered, device=device)
        tokens[rows] = _draw_filtered(
            probabilities[rows], points[rows], [draws[row].parameters for row in filtered]
        )
    return tokens


def _is_filtered(draw: Draw, vocabulary: int) -> bool:
    parameters = draw.parameters
    return parameters.top_p < 1 or 0 < parameters.top_k < vocabulary or parameters.min_p > 0


def _invert(probabilities: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The token (or rank) at each point of the cumulated probabilities; never one of mass 0."""
    cumulated = probabilities.cumsum(dim=-1)
    targets = points.to(cumulated.dtype)[:, None] * cumulated[:, -1:]
    found = torch.searchsorted(cumulated, targets, right=True)[:, 0]
    # Rounding can carry the target to the very end, behind the last token that has any mass.
    last = (cumulated < cumulated[:, -1:]).sum(dim=-1)
    return torch.minimum(found, last)


def _draw_filtered(
    probabilities: torch.Tensor, points: torch.Tensor, parameters: Sequence[SamplingParameters]
) -> torch.Tensor:
    """Draw among each row's most probable tokens.

    Sorting a whole vocabulary costs more than a small model's forward pass, so only as many
    candidates are sorted as turn out to be needed; the result is the same.
    """
    vocabulary = probabilities.shape[-1]
    device = probabilities.device
    top_k = torch.tensor([p.top_k if p.top_k > 0 else vocabulary for p in parameters]).to(device)
    top_p = torch.tensor([p.top_p for p in parameters], device=device)
    min_p = torch.tensor([p.min_p for p in parameters], device=device)
    wanted = max(p.top_k for p in parameters)
    size = min(vocabulary, max(_FIRST_CANDIDATES, wanted))
    while True:
        mass, tokens = probabilities.topk(size, dim=-1)
        if size == vocabulary or _reaches(mass, top_k, top_p, min_p):
            break
        size = min(vocabulary, size * 16)
    ranks = torch.arange(size, device=device)
    mass = mass.masked_fill(ranks[None, :] >= top_k[:, None], 0)
    before = mass.cumsum(dim=-1) - mass
    # The whole mass is 1 unless top_k cut it; then all that is left was sorted.
    total = torch.where(top_k < vocabulary, mass.sum(dim=-1), torch.ones_like(top_p))
    keep = (before < (top_p * total)[:, None]) & (mass >= min_p[:, None] * mass[:, :1])
    keep[:, 0] = True
    picked = _invert(mass.masked_fill(~keep, 0), points)
    return tokens.gather(1, picked[:, None])[:, 0]


def _reaches(
    mass: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
) -> bool:
    """Whether every row's candidates include all that its filters can let through."""
    done = mass.sum(dim=-1) >= top_p
    done |= top_k <= mass.shape[-1]
    done |= mass[:, -1] < min_p * mass[:, 0]
    return bool(done.all())
