"""Guided decoding: a grammar says which tokens may come next (llguidance does the work)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer, grammar_from
from llguidance.hf import from_tokenizer

from ...errors import InvalidInputError
from ...models.sampling import SamplingParameters

_BITS = 32


class Guide:
    """One answer's grammar, and how much of it has been written."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._words = torch.zeros(-(-vocabulary // _BITS), dtype=torch.int32)

    def allowed(self) -> torch.Tensor:
        """Which tokens may come next: [vocabulary], bool, on the CPU.

        Raises:
            InvalidInputError: the grammar turned out too complex to follow.
        """
        size = self._words.numel() * self._words.element_size()
        self._matcher.unsafe_compute_mask_ptr(self._words.data_ptr(), size)
        if self._matcher.is_error():
            raise InvalidInputError(
                f"the grammar cannot be followed further: {_reason(self._matcher)}"
            )
        bits = self._words[:, None] >> torch.arange(_BITS, dtype=torch.int32)
        return (bits & 1).bool().flatten()[: self._vocabulary]

    def accept(self, token: int) -> None:
        """The answer grew by an allowed token."""
        self._matcher.consume_token(token)

    @property
    def is_complete(self) -> bool:
        """Whether nothing may come any more."""
        return bool(self._matcher.is_stopped())


class GuideMaker:
    """Makes guides for one model's tokens; blocks while it compiles a grammar."""

    def __init__(
        self, tokenizer: Any, model: str, vocabulary: int, end_tokens: Sequence[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._vocabulary = vocabulary
        self._end_tokens = list(end_tokens)

    def make(self, parameters: SamplingParameters) -> Guide | None:
        """The guide that the parameters ask for, if they do.

        Raises:
            InvalidInputError: the grammar is wrong, or the model's tokenizer cannot be guided.
        """
        if not parameters.is_guided:
            return None
        name, grammar = _grammar(parameters)
        matcher = LLMatcher(self._tokens, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidInputError(f"{name} cannot be followed: {_reason(matcher)}")
        return Guide(matcher, self._vocabulary)

    @cached_property
    def _tokens(self) -> LLTokenizer:
        try:
            return from_tokenizer(
                self._tokenizer, n_vocab=self._vocabulary, eos_token=self._end_tokens or None
            )
        except Exception as error:
            raise InvalidInputError(
                f"the tokenizer of {self._model} cannot be guided here: run the model on vllm, "
                f"or leave json_schema, regex and choice out ({error})"
            ) from error


def _grammar(parameters: SamplingParameters) -> tuple[str, str]:
    """The parameter's name, and what it says in llguidance's terms."""
    if parameters.json_schema is not None:
        # A small model that may write white space anywhere can do so for ever.
        grammar = LLMatcher.grammar_from_json_schema(
            parameters.json_schema,
            defaults={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
        )
        return "json_schema", grammar
    if parameters.regex is not None:
        return "regex", LLMatcher.grammar_from_regex(parameters.regex)
    return "choice", grammar_from("choice", json.dumps(parameters.choice))


def _reason(matcher: LLMatcher) -> str:
    lines = [line.strip() for line in matcher.get_error().splitlines() if line.strip()]
    last = [line for line in lines if line.startswith("error:")]
    return (last or lines or ["too complex"])[0].removeprefix("error:").strip()
