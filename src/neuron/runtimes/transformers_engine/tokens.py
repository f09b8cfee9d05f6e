"""The tokenizer as the rest needs it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import groupby
from typing import Any

_OF_CALLS = (
    "<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]",
)  # fmt: skip
"""What models write around calls of tools; to some tokenizers these are special tokens."""


class Tokens:
    """Turns tokens into text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._spelt: dict[int, str] = {}

    @cached_property
    def with_calls(self) -> Tokens | TokensWithCalls:
        """The same where the model may call tools: then what it writes around calls is text."""
        special = set(self._tokenizer.all_special_ids)
        known = self._tokenizer.get_added_vocab()
        marks = {known[text]: text for text in _OF_CALLS if known.get(text) in special}
        return TokensWithCalls(self, marks) if marks else self

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


class TokensWithCalls:
    """Turns tokens into text, some special tokens too: `marks` has their names."""

    def __init__(self, tokens: Tokens, marks: Mapping[int, str]) -> None:
        self._tokens = tokens
        self._marks = marks

    def decode(self, token_ids: Any, /) -> str:
        """The tokens' text, special tokens that are no marks left out."""
        if self._marks.keys().isdisjoint(token_ids):
            return self._tokens.decode(token_ids)
        parts = groupby(token_ids, self._marks.get)
        return "".join(
            self._tokens.decode(list(part)) if mark is None else mark * len(list(part))
            for mark, part in parts
        )
