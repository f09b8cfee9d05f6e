"""From a model's raw scores to labels, the best first."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import InvalidInputError
from .signature import OutputSpec
from .tensors import number_to_json


def label_scores(tensor: torch.Tensor, spec: OutputSpec) -> tuple[Any, int]:
    """[{"label", "score"}, …] for a row's output, and how many scores are no numbers.

    Where the row has more dimensions than the labels', one such list for each place in them.

    Raises:
        InvalidInputError: the model's answer has not as many places as there are labels.
    """
    labels = spec.labels or []
    if tensor.shape[-1] != len(labels):
        raise InvalidInputError(
            f"the output {spec.name} has {tensor.shape[-1]} places for {len(labels)} labels"
        )
    scores = _activate(tensor.double(), spec)
    # A NaN sorts before every number: it is told, not hidden behind the best.
    best, order = scores.sort(dim=-1, descending=True, stable=True)
    count = min(spec.top_k or len(labels), len(labels))
    strange = int((~torch.isfinite(scores)).sum())
    return _named(best[..., :count].tolist(), order[..., :count].tolist(), labels), strange


def _activate(tensor: torch.Tensor, spec: OutputSpec) -> torch.Tensor:
    if spec.activation == "softmax":
        return tensor.softmax(-1)
    return tensor.sigmoid() if spec.activation == "sigmoid" else tensor


def _named(scores: Any, order: Any, labels: list[str]) -> Any:
    if scores and isinstance(scores[0], list):
        return [_named(*pair, labels) for pair in zip(scores, order, strict=True)]
    return [
        {"label": labels[place], "score": number_to_json(score)}
        for score, place in zip(scores, order, strict=True)
    ]
