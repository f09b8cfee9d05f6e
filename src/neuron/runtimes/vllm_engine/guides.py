"""Guided answers: a schema, an expression or a list of choices that vLLM holds the model to."""

from __future__ import annotations

from typing import Any

import llguidance
import llguidance.hf
from vllm.config import StructuredOutputsConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams, check_json_nesting
from vllm.v1.structured_output.backend_guidance import GuidanceBackend, serialize_guidance_grammar
from vllm.v1.structured_output.request import get_structured_output_key

from ...errors import InvalidInputError
from ...models.sampling import SamplingParameters

_NAMES = ("json_schema", "regex", "choice")
_ONE_LINE = {
    "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
}
"""As on every runtime: a small model that may write white space anywhere can do so for ever."""


def guides_config() -> StructuredOutputsConfig:
    """What vLLM is told of guides when it starts.

    One backend for all: vLLM keeps the first that a request needs, and would give it guides
    that were checked for another. This one builds its automata as it goes, so that no guide
    keeps the core busy or fills its memory, and refuses what it cannot enforce.
    """
    return StructuredOutputsConfig(backend="guidance")


class Guide:
    """One request's guide, checked before vLLM hears of it."""

    def __init__(self, name: str, grammar: str, params: StructuredOutputsParams) -> None:
        self.name = name
        self.params = params
        self._grammar = grammar

    def is_whole(self, tokenizer: Any, tokens: list[int]) -> bool:
        """Whether an answer is all that the guide asks for; its end token is left out."""
        matcher = llguidance.LLMatcher(tokenizer, self._grammar, log_level=0)
        return bool(matcher.consume_tokens(tokens)) and bool(matcher.is_accepting())


class Guides:
    """Makes guides for one model; blocks, so it belongs in the tokenizer's thread."""

    def __init__(self, tokenizer: Any, name: str, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._name = name
        self._vocabulary = vocabulary
        self._matching: Any = None

    def of(self, parameters: SamplingParameters) -> Guide | None:
        """The request's guide, if it has one.

        Raises:
            InvalidInputError: it is none, or this model cannot be guided.
        """
        if not parameters.is_guided:
            return None
        self._check_tokenizer()
        name = next(each for each in _NAMES if getattr(parameters, each) is not None)
        schema = None if parameters.json_schema is None else _ONE_LINE | parameters.json_schema
        params = StructuredOutputsParams(
            json=schema, regex=parameters.regex, choice=parameters.choice
        )
        try:
            check_json_nesting(schema)
            grammar = serialize_guidance_grammar(*get_structured_output_key(params))
        except (VLLMValidationError, ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(f"{name}: {_sentence(str(error))}") from error
        if flaw := llguidance.LLMatcher.validate_grammar(grammar, None):
            raise InvalidInputError(f"{name}: {_sentence(flaw)}")
        return Guide(name, grammar, params)

    def check_whole(self, guide: Guide, tokens: list[int]) -> None:
        """See that an answer ended because it was whole: vLLM ends it too where a guide is
        more than its matcher can do.

        Raises:
            InvalidInputError: it is not whole.
        """
        if self._matching is None:
            size = max(self._vocabulary, len(self._tokenizer))
            self._matching = llguidance.hf.from_tokenizer(self._tokenizer, size)
        if not guide.is_whole(self._matching, tokens):
            raise InvalidInputError(
                f"{guide.name}: it is too complex to guide an answer to its end: simplify it"
            )

    def _check_tokenizer(self) -> None:
        if self._tokenizer.eos_token_id is None or not GuidanceBackend.is_tokenizer_supported(
            self._tokenizer
        ):
            raise InvalidInputError(
                f"{self._name} cannot be guided: that needs a fast tokenizer with an end token"
            )


def _sentence(flaw: str) -> str:
    """What is wrong, without the drawing of where."""
    lines = flaw.strip().splitlines() or ["it cannot be used"]
    told = [line for line in lines if line.startswith("error: ")]
    return told[0].removeprefix("error: ") if told else lines[0]
