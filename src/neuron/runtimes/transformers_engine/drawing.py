"""From a step's logits to the next token of each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...errors import NeuronError
from .logprobs import Score, score
from .row import Row
from .sampling import NOT_A_TOKEN, Draw, Penalties, looks_back, sample


@dataclass(frozen=True, slots=True)
class Drawn:
    """A row's next token, and its score if the row asked for that."""

    token: int
    score: Score | None = None


def draw(logits: torch.Tensor, rows: Sequence[Row]) -> list[Drawn | NeuronError]:
    """Each row's next token: drawn, or given; or why that row cannot go on.

    Rows that ask for no scores, no guide and no given tokens pay for none.
    """
    draws = [_draw_of(row, logits) for row in rows]
    tokens = _tokens(logits, rows, draws)
    scores = _scores(logits, rows, tokens)
    return [
        one if isinstance(one, NeuronError) else _drawn(token, scores.get(index))
        for index, (one, token) in enumerate(zip(draws, tokens, strict=True))
    ]


def _draw_of(row: Row, logits: torch.Tensor) -> Draw | NeuronError | None:
    """What the sampler is told; None where the token is given."""
    if row.given_token is not None:
        return None
    if row.penalties is None and looks_back(row.parameters):
        row.penalties = Penalties.of(row.prompt, row.tokens, logits)
    try:
        return row.draw()
    except NeuronError as error:
        return error


def _tokens(
    logits: torch.Tensor, rows: Sequence[Row], draws: Sequence[Draw | NeuronError | None]
) -> list[int]:
    tokens = [NOT_A_TOKEN if row.given_token is None else row.given_token for row in rows]
    wanted = {index: one for index, one in enumerate(draws) if isinstance(one, Draw)}
    if wanted:
        sampled = sample(_some(logits, list(wanted)), list(wanted.values()))
        for index, token in zip(wanted, sampled, strict=True):
            tokens[index] = token
    return tokens


def _scores(logits: torch.Tensor, rows: Sequence[Row], tokens: Sequence[int]) -> dict[int, Score]:
    asking = [
        index for index, row in enumerate(rows) if row.scored and tokens[index] != NOT_A_TOKEN
    ]
    if not asking:
        return {}
    tops = [rows[index].parameters.logprobs or 0 for index in asking]
    scores = score(_some(logits, asking), [tokens[index] for index in asking], tops)
    return dict(zip(asking, scores, strict=True))


def _some(logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
    return logits if len(rows) == len(logits) else logits[rows]


def _drawn(token: int, score_: Score | None) -> Drawn | NeuronError:
    if token == NOT_A_TOKEN or (score_ is not None and not score_.is_number):
        return NeuronError("the model's output is not a number")
    return Drawn(token, score_)
