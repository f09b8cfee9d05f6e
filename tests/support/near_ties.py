"""Whether two greedy answers differ only because rounding had to decide between two tokens.

Batches of other sizes add up numbers in another order. Where two tokens' logits are as close as
the last bit of a float32, that decides; everything behind it is another text then.
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

NEAR = 1e-5
"""Between the logits of two tokens, some ten times the rounding error of the tiny model's."""


def rounding_decides(model: Path, prompt: str, one: list[int], other: list[int]) -> bool:
    """Look at the first token in which two answers to a prompt differ, in float64."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    message = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    read: list[int] = tokenizer.encode(text, add_special_tokens=False)
    place = next(n for n, (a, b) in enumerate(zip_longest(one, other)) if a != b)
    if place >= min(len(one), len(other)):
        return False
    exact = AutoModelForCausalLM.from_pretrained(model).to(torch.float64)
    with torch.no_grad():
        logits = exact(torch.tensor([read + one[:place]])).logits[0, -1]
    best = float(logits.max())
    return all(best - float(logits[token]) < NEAR for token in (one[place], other[place]))
