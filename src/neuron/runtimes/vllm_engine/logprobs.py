"""From vLLM's log-probabilities to what an answer's metadata tells of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON has no number for."""


class TokenScores:
    """One entry per token of an answer, in `metadata["logprobs"]`'s form; as many as were added.

    `decode` gives the text of one token; `top` is how many alternatives each entry has.
    """

    def __init__(self, decode: Callable[[int], str], top: int) -> None:
        self.entries: list[dict[str, Any]] = []
        self._decode = decode
        self.top = top

    @property
    def total(self) -> float:
        """The log-probability of all tokens together."""
        return float(sum(entry["logprob"] for entry in self.entries))

    def add(self, tokens: Sequence[int], positions: Sequence[Mapping[int, Any]]) -> None:
        """Take in tokens, each with vLLM's token → Logprob at its place."""
        for token, candidates in zip(tokens, positions, strict=True):
            best = sorted(candidates.items(), key=lambda item: item[1].rank)[: self.top]
            self.entries.append(
                {
                    **self._entry(token, candidates[token].logprob),
                    "top": [self._entry(other, found.logprob) for other, found in best],
                }
            )

    def add_unscored(self, token: int) -> None:
        """Take in a token that nothing goes before."""
        text = self._decode(token)
        self.entries.append({"token_id": token, "token": text, "logprob": None, "top": []})

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._decode(token)
        return {"token_id": token, "token": text, "logprob": max(logprob, _LOWEST)}
