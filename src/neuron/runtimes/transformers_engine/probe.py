"""Before the first job: warm the model up, and see whether batching it changes its answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from .decoder import Decoder, SlotDecoder, SoloDecoder, can_batch
from .loading import LoadedCheckpoint

logger = logging.getLogger(__name__)

_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


def choose_decoder(checkpoint: LoadedCheckpoint, max_rows: int) -> Decoder:
    """Many rows at once where that is sound, else one; the model is warm afterwards."""
    solo = SoloDecoder(checkpoint.model)
    with torch.inference_mode():
        if max_rows > 1 and can_batch(checkpoint.model):
            slots = SlotDecoder(checkpoint.model, max_rows, checkpoint.context_tokens)
            if _agree(slots, solo, checkpoint):
                return slots
            slots.close()
            logger.warning("answers change when batched: one request at a time")
        else:
            _read(solo, [_tokens(checkpoint, 4)])
    solo.release()
    return solo


def _agree(slots: SlotDecoder, solo: SoloDecoder, checkpoint: LoadedCheckpoint) -> bool:
    """Whether two rows of different lengths, read and continued together, stay themselves."""
    texts = [_tokens(checkpoint, 5), _tokens(checkpoint, 3)]
    together = _read(slots, texts)
    alone = torch.stack([_read(solo, [text])[:, 0] for text in texts], dim=1)
    slots.release()
    solo.release()
    scale = alone.abs().max().clamp_min(1e-6)
    error = ((together - alone).abs().max() / scale).item()
    return float(error) <= _TOLERANCE.get(checkpoint.model.dtype, 0.1)


def _read(decoder: Decoder, texts: Sequence[list[int]]) -> torch.Tensor:
    """Logits after the texts and after one more token: [2, rows, vocabulary]."""
    first = decoder.prefill(0, 0, texts).float()
    second = decoder.decode([text[0] for text in texts]).float()
    return torch.stack([first, second])


def _tokens(checkpoint: LoadedCheckpoint, count: int) -> list[int]:
    return [(7 * index + count) % checkpoint.vocabulary for index in range(count)]
