"""How well an answer agrees with its references.

Exact match and F1 are those of SQuAD (Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine
Comprehension of Text", 2016; no-answer references as in version 2.0, 2018): both compare words
after lower-casing and without punctuation and English articles. Where SQuAD knows ASCII only,
all of Unicode counts here: letters are case-folded, compatible characters (NFKC) are the same,
and every script's punctuation goes.
"""

from __future__ import annotations

import math
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from ...errors import InvalidInputError

_ARTICLES = frozenset({"a", "an", "the"})


class Metric(StrEnum):
    """What an evaluation can measure; the values are the names that jobs use."""

    EXACT_MATCH = "exact_match"
    F1 = "f1"
    PERPLEXITY = "perplexity"


def exact_match(answer: str, references: Sequence[str]) -> int:
    """Return 1 if the answer has the words of one of the references, else 0."""
    words = words_of(answer)
    return int(any(words == words_of(reference) for reference in references))


def f1(answer: str, references: Sequence[str]) -> float:
    """Return how much the answer's words overlap those of the best reference, 0 to 1.

    It is the harmonic mean of precision and recall; a word counts as often as it occurs. Two
    texts without words agree.
    """
    words = words_of(answer)
    return max(_overlap(words, words_of(reference)) for reference in references)


def perplexity(logprob: float, tokens: int) -> float:
    """Return exp of the mean negative log-likelihood of `tokens` with `logprob` in all.

    Raises:
        InvalidInputError: it is beyond all numbers: the model rules the text out.
    """
    try:
        value = math.exp(-logprob / tokens)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise InvalidInputError("the model gives the reference no probability: no perplexity")
    return value


def words_of(text: str) -> list[str]:
    """Return the words that count, as they are compared."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(character for character in folded if not _is_punctuation(character))
    return [word for word in kept.split() if word not in _ARTICLES]


def _overlap(words: list[str], others: list[str]) -> float:
    if not words or not others:
        return float(words == others)
    same = (Counter(words) & Counter(others)).total()
    return 2 * same / (len(words) + len(others))


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
