"""The cache in place gives what the library's own cache gives, however rows come and go."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from neuron.runtimes.transformers_engine.decoder import SlotDecoder, SoloDecoder, can_batch


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder).eval()


@pytest.fixture
def slots(model: Any) -> Iterator[SlotDecoder]:
    decoder = SlotDecoder(model, 8, 512)
    with torch.inference_mode():
        yield decoder
    decoder.close()


def alone(model: Any, text: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([text])).logits[0, -1]
    return logits


def tokens(count: int, seed: int) -> list[int]:
    return [random.Random(seed).randrange(3, 400) for _ in range(count)]


def test_rows_of_different_lengths_do_not_disturb_each_other(
    model: Any, slots: SlotDecoder
) -> None:
    texts = [tokens(9, 1), tokens(4, 2), tokens(1, 3)]
    logits = slots.prefill(0, 0, texts)
    for _ in range(5):
        for row, text in enumerate(texts):
            assert torch.allclose(logits[row], alone(model, text), atol=1e-4)
        chosen = [int(token) for token in logits.argmax(-1)]
        for text, token in zip(texts, chosen, strict=True):
            text.append(token)
        logits = slots.decode(chosen)


def test_a_prompt_read_in_chunks_is_the_same_prompt(model: Any, slots: SlotDecoder) -> None:
    text = tokens(50, 4)
    slots.prefill(0, 0, [text[:20]])
    slots.prefill(0, 20, [text[20:37]])
    logits = slots.prefill(0, 37, [text[37:]])
    assert torch.allclose(logits[0], alone(model, text), atol=1e-4)


def test_rows_move_and_the_buffers_grow(model: Any, slots: SlotDecoder) -> None:
    texts = [tokens(3 + row, 10 + row) for row in range(3)]
    slots.prefill(0, 0, texts)
    slots.move(2, 0)
    slots.truncate(2)
    texts = [texts[2], texts[1]]
    newcomer = tokens(300, 20)  # longer than the first buffers
    slots.prefill(2, 0, [newcomer])
    texts.append(newcomer)
    logits = slots.decode([5, 6, 7])
    for row, (text, token) in enumerate(zip(texts, [5, 6, 7], strict=True)):
        assert torch.allclose(logits[row], alone(model, [*text, token]), atol=1e-4)


def test_one_row_at_a_time_gives_the_same(model: Any) -> None:
    text = tokens(6, 30)
    solo = SoloDecoder(model)
    with torch.inference_mode():
        assert torch.allclose(solo.prefill(0, 0, [text])[0], alone(model, text), atol=1e-4)
        assert torch.allclose(solo.decode([9])[0], alone(model, [*text, 9]), atol=1e-4)


def test_a_sliding_window_is_not_batched(model: Any) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1,
    }  # fmt: skip
    assert can_batch(model)
    assert can_batch(MistralForCausalLM(MistralConfig(**sizes, sliding_window=None)))
    assert not can_batch(MistralForCausalLM(MistralConfig(**sizes, sliding_window=8)))
