"""From tokens to text, as they come: whole characters only, and nothing behind a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_REPLACEMENT = "\ufffd"
_MAX_PENDING = 3
"""A character cut short leaves at most three replacement characters."""
_MAX_WINDOW = 64
_CONTEXT_TOKENS = 6


class Decodes(Protocol):
    """The one thing needed of a tokenizer."""

    def decode(self, token_ids: Sequence[int], /) -> str:
        """The tokens' text, special tokens left out."""


class Detokenizer:
    """Tokens in, text out, such that the joined pieces are the text of all tokens.

    A token's text depends on its neighbours, so a few tokens before are always decoded with it.
    """

    def __init__(self, tokenizer: Decodes, context: Sequence[int] = ()) -> None:
        self._decode = tokenizer.decode
        self._window = list(context)[-_CONTEXT_TOKENS:]
        self._prefix = self._decode(self._window) if self._window else ""
        if self._prefix.endswith(_REPLACEMENT):
            self._window, self._prefix = [], ""
        self._settled = len(self._window)
        self._given = 0

    def add(self, token: int) -> str:
        """The text that is certain now."""
        self._window.append(token)
        text = self._decode(self._window)[len(self._prefix) :]
        whole = text.rstrip(_REPLACEMENT)
        certain = max(len(whole), len(text) - _MAX_PENDING)
        if len(self._window) >= _MAX_WINDOW:
            certain = len(text)
        piece = text[self._given : certain]
        self._given = max(self._given, certain)
        if certain == len(text) and (text or len(self._window) >= _MAX_WINDOW):
            self._slide()
        return piece

    def flush(self) -> str:
        """The rest: half a character shows as the replacement character."""
        piece = self._decode(self._window)[len(self._prefix) :][self._given :]
        self._given += len(piece)
        return piece

    def _slide(self) -> None:
        """All text so far was given: keep only the last tokens, as context."""
        self._window = self._window[self._settled :]
        self._settled = len(self._window)
        self._prefix = self._decode(self._window)
        self._given = 0


class StopStrings:
    """Watches a growing text for the first of some strings."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)

    def find(self, text: str, checked: int) -> tuple[int, str] | None:
        """Where the earliest stop string begins, and which; `checked` characters held none."""
        start = max(0, checked - self._longest + 1)
        found = [(at, stop) for stop in self._stops if (at := text.find(stop, start)) >= 0]
        return min(found, key=lambda hit: (hit[0], -len(hit[1]))) if found else None

    def held_back(self, text: str) -> int:
        """How many characters at the end may become a stop string."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[len(text) - size :]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0
