"""A model that answers a batch of texts in one forward pass."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from ....errors import NeuronError
from ..loading import LoadedCheckpoint
from .recipe import Pooling, Recipe

Text = Sequence[int]
"""A text's tokens."""


class PoolingModel(ABC):
    """Reads texts of different lengths at once; padding does not change what it answers."""

    def __init__(self, checkpoint: LoadedCheckpoint) -> None:
        self._model = checkpoint.model
        self._device: torch.device = checkpoint.model.device
        self._takes_cache = "use_cache" in inspect.signature(self._model.forward).parameters
        stated = self._model.config.get_text_config().pad_token_id
        pad = checkpoint.tokenizer.pad_token_id if stated is None else stated
        self.pad_token: int | None = (
            pad if pad is not None and pad < checkpoint.vocabulary else None
        )

    @property
    def can_batch(self) -> bool:
        """Whether several texts may share a pass."""
        return True

    def answer(self, texts: Sequence[Text]) -> list[Any]:
        """What a job's result holds for each text.

        Raises:
            NeuronError: the model's output is not a number.
        """
        width = max(map(len, texts))
        pad = self.pad_token or 0
        ids = torch.tensor([[*text, *[pad] * (width - len(text))] for text in texts])
        lengths = torch.tensor([len(text) for text in texts])
        mask = torch.arange(width)[None, :] < lengths[:, None]
        with torch.inference_mode():
            output = self._model(
                input_ids=ids.to(self._device),
                attention_mask=mask.long().to(self._device),
                **({"use_cache": False} if self._takes_cache else {}),
            )
            numbers = self._numbers(output, mask.to(self._device))
            if not bool(torch.isfinite(numbers).all()):
                raise NeuronError("the model's output is not a number")
            return self._told(numbers.tolist())

    @abstractmethod
    def _numbers(self, output: Any, mask: torch.Tensor) -> torch.Tensor:
        """Of the model's output what is told: [texts, numbers], float32."""

    @abstractmethod
    def _told(self, rows: list[list[float]]) -> list[Any]:
        """The numbers as a result."""


class Embedder(PoolingModel):
    """Texts to vectors."""

    def __init__(self, checkpoint: LoadedCheckpoint, recipe: Recipe) -> None:
        super().__init__(checkpoint)
        self._recipe = recipe

    def _numbers(self, output: Any, mask: torch.Tensor) -> torch.Tensor:
        states = output.last_hidden_state.to(torch.float32)
        pooled = pool(states, mask, self._recipe.pooling)
        return torch.nn.functional.normalize(pooled, dim=-1) if self._recipe.normalize else pooled

    def _told(self, rows: list[list[float]]) -> list[Any]:
        return rows


class Classifier(PoolingModel):
    """Texts to labels with scores, the best first."""

    def __init__(self, checkpoint: LoadedCheckpoint) -> None:
        super().__init__(checkpoint)
        config = self._model.config
        if self.pad_token is not None:
            # Decoders find each text's end by it.
            config.get_text_config().pad_token_id = self.pad_token
        self._labels = [config.id2label[index] for index in range(config.num_labels)]
        self._kind = getattr(config, "problem_type", None)

    @property
    def can_batch(self) -> bool:
        return self.pad_token is not None

    def _numbers(self, output: Any, mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = output.logits.to(torch.float32)
        if self._kind == "regression":
            return logits
        if self._kind == "multi_label_classification" or len(self._labels) == 1:
            return logits.sigmoid()
        return logits.softmax(dim=-1)

    def _told(self, rows: list[list[float]]) -> list[Any]:
        return [
            sorted(
                (
                    {"label": label, "score": score}
                    for label, score in zip(self._labels, row, strict=True)
                ),
                key=lambda entry: -entry["score"],
            )
            for row in rows
        ]


def pool(states: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """One vector for each text: states [texts, tokens, size], mask [texts, tokens], bool."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "lasttoken":
        last = mask.sum(dim=1) - 1
        return states[torch.arange(len(states), device=states.device), last]
    if pooling == "max":
        return states.masked_fill(~mask[:, :, None], -torch.inf).max(dim=1).values
    weights = mask[:, :, None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)
