"""Forward passes for a changing batch of rows.

`SlotDecoder` runs many rows at once; `SoloDecoder` runs one, for models whose attention or state
cannot be batched that way. The batcher treats both alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from .cache import SlotCache

_BATCH_DEPENDENT_ROPE = {"dynamic", "longrope"}


class Decoder(Protocol):
    """What the batcher needs. Rows are numbered from 0, without gaps."""

    max_rows: int
    can_prefill_in_chunks: bool

    def prefill(
        self, first_row: int, start: int, chunks: Sequence[Sequence[int]], *, every: bool = False
    ) -> torch.Tensor:
        """Read a chunk of each of some new rows, from position `start`; logits after each.

        With `every` there are logits after every token: [rows, tokens, vocabulary].
        """

    def decode(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read one token in each of the first rows; logits after each."""

    def move(self, source: int, target: int) -> None:
        """Put a row in the place of another."""

    def truncate(self, rows: int) -> None:
        """Forget all but the first `rows` rows."""

    def memory_needed(self, rows: int, columns: int) -> int:
        """Bytes that the cache would hold for that many rows of that many tokens."""

    def release(self) -> None:
        """Give the cache's memory back."""


def can_batch(model: Any) -> bool:
    """Whether the model is a plain decoder: full attention, positions given, rows independent."""
    config = model.config.get_text_config(decoder=True)
    layer_types = getattr(config, "layer_types", None) or []
    if any(kind != "full_attention" for kind in layer_types):
        return False
    if not layer_types and _has_sliding_window(config):
        return False
    rope = getattr(config, "rope_parameters", None) or {}
    if isinstance(rope, dict) and rope.get("rope_type") in _BATCH_DEPENDENT_ROPE:
        return False
    if getattr(model, "_is_stateful", False) or config.is_encoder_decoder:
        return False
    accepted = inspect.signature(model.forward).parameters
    return {"attention_mask", "position_ids", "past_key_values"} <= accepted.keys()


def _has_sliding_window(config: Any) -> bool:
    if getattr(config, "sliding_window", None) is None:
        return False
    return bool(getattr(config, "use_sliding_window", True))


class SlotDecoder:
    """Many rows at once, in one cache written in place."""

    can_prefill_in_chunks = True

    def __init__(self, model: Any, max_rows: int, max_columns: int) -> None:
        self.max_rows = max_rows
        self._model = model
        self._device: torch.device = model.device
        self._dtype: torch.dtype = model.dtype
        config = model.config.get_text_config(decoder=True)
        self._padded_masks = config._attn_implementation.startswith("flash")
        self._cache = SlotCache(config.num_hidden_layers, max_rows, max_columns)
        self._bytes_per_token = _bytes_per_token(config, self._dtype)
        self._last_positions: torch.Tensor | None = None
        head = model.get_output_embeddings()
        self._hook = (
            None if head is None else head.register_forward_pre_hook(self._keep_last_positions)
        )

    def prefill(
        self, first_row: int, start: int, chunks: Sequence[Sequence[int]], *, every: bool = False
    ) -> torch.Tensor:
        width = max(map(len, chunks))
        padded = [[*chunk, *[0] * (width - len(chunk))] for chunk in chunks]
        input_ids = torch.tensor(padded, device=self._device)
        if not every:
            lasts = torch.tensor([len(chunk) - 1 for chunk in chunks])
            self._last_positions = lasts.to(self._device)
        cache = self._cache
        cache.plan_prefill(first_row, len(chunks), start, start + width)
        # Padding stands at a row's end, where causality hides it from every token that counts.
        logits = self._forward(
            input_ids,
            torch.arange(start, start + width, device=self._device).expand(len(chunks), -1),
            None if start == 0 else self._chunk_mask(len(chunks), start, width),
            every=every,
        )
        del cache.lengths[first_row:]
        cache.lengths.extend(start + len(chunk) for chunk in chunks)
        return logits

    def decode(self, tokens: Sequence[int]) -> torch.Tensor:
        rows = len(tokens)
        positions = self._cache.plan_decode(rows, self._device)
        logits = self._forward(
            torch.tensor(tokens, device=self._device)[:, None],
            positions[:, None],
            self._row_mask(positions),
        )
        for row in range(rows):
            self._cache.lengths[row] += 1
        return logits

    def move(self, source: int, target: int) -> None:
        self._cache.move(source, target)

    def truncate(self, rows: int) -> None:
        del self._cache.lengths[rows:]

    def memory_needed(self, rows: int, columns: int) -> int:
        return rows * columns * self._bytes_per_token

    def release(self) -> None:
        self._cache.release()

    def close(self) -> None:
        """Give the memory back and leave the model as it was."""
        self.release()
        if self._hook is not None:
            self._hook.remove()

    def _forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        mask: torch.Tensor | None,
        *,
        every: bool = False,
    ) -> torch.Tensor:
        try:
            output = self._model(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=mask,
                past_key_values=self._cache,
                use_cache=True,
            )
            logits: torch.Tensor = output.logits
            if every:
                return logits
            if logits.shape[1] > 1:  # a model that computes its logits in another way
                assert self._last_positions is not None
                logits = _pick(logits, self._last_positions)
            return logits[:, -1]
        finally:
            self._last_positions = None

    def _keep_last_positions(self, _module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Before the output layer: only each row's last token needs logits."""
        if self._last_positions is None or not args:
            return None
        return (_pick(args[0], self._last_positions), *args[1:])

    def _row_mask(self, positions: torch.Tensor) -> torch.Tensor:
        columns = torch.arange(self._cache.plan.columns, device=self._device)
        visible = columns[None, :] <= positions[:, None]
        return visible.long() if self._padded_masks else self._additive(visible)[:, None, None]

    def _chunk_mask(self, rows: int, start: int, width: int) -> torch.Tensor:
        columns = torch.arange(start + width, device=self._device)
        if self._padded_masks:
            return torch.ones(rows, start + width, dtype=torch.long, device=self._device)
        visible = columns[None, :] <= columns[start:, None]
        return self._additive(visible)[None, None].expand(rows, 1, -1, -1)

    def _additive(self, visible: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(~visible, torch.finfo(self._dtype).min)


class SoloDecoder:
    """One row, with the cache that the model itself would choose."""

    can_prefill_in_chunks = False
    max_rows = 1

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None
        accepted = inspect.signature(model.forward).parameters
        self._cache_name = "past_key_values" if "past_key_values" in accepted else "cache_params"
        self._bytes_per_token = _bytes_per_token(
            model.config.get_text_config(decoder=True), model.dtype
        )

    def prefill(
        self, first_row: int, start: int, chunks: Sequence[Sequence[int]], *, every: bool = False
    ) -> torch.Tensor:
        assert first_row == 0
        assert start == 0
        self._cache = DynamicCache(config=self._model.config)
        return self._forward(list(chunks[0]), every=every)

    def decode(self, tokens: Sequence[int]) -> torch.Tensor:
        return self._forward(list(tokens))

    def move(self, source: int, target: int) -> None:
        raise AssertionError("there is one row only")

    def truncate(self, rows: int) -> None:
        if rows == 0:
            self._cache = None

    def memory_needed(self, rows: int, columns: int) -> int:
        return rows * columns * self._bytes_per_token

    def release(self) -> None:
        self._cache = None

    def _forward(self, tokens: list[int], *, every: bool = False) -> torch.Tensor:
        output = self._model(
            input_ids=torch.tensor([tokens], device=self._model.device),
            use_cache=True,
            logits_to_keep=0 if every else 1,
            **{self._cache_name: self._cache},
        )
        logits: torch.Tensor = output.logits
        return logits if every else logits[:, -1]


def _pick(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    rows = torch.arange(states.shape[0], device=states.device)
    return states[rows, positions.to(states.device)][:, None]


def _bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * dtype.itemsize)
