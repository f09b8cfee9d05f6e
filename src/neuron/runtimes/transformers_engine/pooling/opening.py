"""From a checkpoint to a model that is warm, and how many texts may share its passes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..loading import LoadedCheckpoint
from ..task import Task
from .model import Classifier, Embedder, PoolingModel
from .recipe import Recipe, read_recipe

logger = logging.getLogger(__name__)

_TOLERANCE = 0.01


def open_model(
    folder: Path, name: str, checkpoint: LoadedCheckpoint, task: Task
) -> tuple[PoolingModel, Recipe]:
    """The model for the task, by the folder's own recipe.

    Raises:
        InvalidInputError: the recipe asks for what is not offered here.
    """
    if task == "classify":
        return Classifier(checkpoint), Recipe()
    recipe = read_recipe(folder, name)
    return Embedder(checkpoint, recipe), recipe


def try_out(model: PoolingModel, vocabulary: int, limit: int) -> int:
    """Warm the model up; how many texts may share a pass: one where company changes answers."""
    texts = [[(7 * index + size) % vocabulary for index in range(size)] for size in (5, 3)]
    alone = [_numbers(model.answer([text])[0]) for text in texts]
    if limit == 1 or not model.can_batch:
        return 1
    together = [_numbers(answer) for answer in model.answer(texts)]
    scale = max(abs(number) for row in alone for number in row)
    worst = max(
        abs(one - other)
        for lonely, joined in zip(alone, together, strict=True)
        for one, other in zip(lonely, joined, strict=True)
    )
    if worst <= _TOLERANCE * max(scale, 1e-6):
        return limit
    logger.warning("answers change when batched: one text at a time")
    return 1


def _numbers(answer: Any) -> list[float]:
    """An embedding, or scores in the order of their labels."""
    if isinstance(answer[0], dict):
        return [entry["score"] for entry in sorted(answer, key=lambda one: str(one["label"]))]
    return list(answer)
