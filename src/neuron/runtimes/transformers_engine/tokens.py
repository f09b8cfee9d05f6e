"""The tokenizer as the rest needs it."""

from __future__ import annotations

from typing import Any


class Tokens:
    """Turns tokens into text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._spelt: dict[int, str] = {}

    def decode(self, token_ids: Any, /) -> str:
        """The tokens' text, special tokens left out."""
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def spell(self, token: int) -> str:
        """The text of one token alone; a special token's is its name. Kept, since tokens recur."""
        if (spelt := self._spelt.get(token)) is None:
            spelt = self._tokenizer.decode(
                [token], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            self._spelt[token] = spelt
        return spelt
