"""Scores: SQuAD's on English, sane on the rest of Unicode."""

from __future__ import annotations

import math
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.errors import InvalidInputError
from neuron.services.rows.scoring import exact_match, f1, perplexity, words_of

ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126))
TEXTS = st.lists(st.text(max_size=20), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("answer", "reference", "matches", "overlap"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1, 1.0),
        ("in Paris, France", "Paris", 0, 0.5),
        ("the cat sat on the mat", "a cat sat", 0, 2 * 2 / (4 + 2)),
        ("cat cat dog", "cat dog dog", 0, 2 * 2 / 6),
        ("state-of-the-art", "state of the art", 0, 0.0),
        ("", "", 1, 1.0),
        ("the", "", 1, 1.0),
        ("Paris", "", 0, 0.0),
        ("STRASSE", "Straße", 1, 1.0),
        (
            "\N{FULLWIDTH DIGIT ONE}\N{FULLWIDTH DIGIT TWO} Äpfel",
            "12 A\N{COMBINING DIAERESIS}pfel",
            1,
            1.0,
        ),
        ("\N{SQUARE MHZ}", "mhz", 1, 1.0),
        ("「東京」。", "東京", 1, 1.0),
        ("¿Qué?", "qué", 1, 1.0),
        ("it\N{RIGHT SINGLE QUOTATION MARK}s", "it's", 1, 1.0),
    ],
)
def test_answers_are_compared_by_their_words(
    answer: str, reference: str, matches: int, overlap: float
) -> None:
    assert exact_match(answer, [reference]) == matches
    assert f1(answer, [reference]) == pytest.approx(overlap)


def test_the_best_reference_counts() -> None:
    references = ["the Seine", "river Seine in Paris", "Paris"]

    assert exact_match("Paris.", references) == 1
    assert exact_match("Lyon", references) == 0
    assert f1("the river Seine", references) == pytest.approx(2 / 3)


@given(ASCII)
def test_ascii_is_normalised_as_squad_does(text: str) -> None:
    bare = "".join(c for c in text.lower() if c not in string.punctuation)

    assert words_of(text) == re.sub(r"\b(a|an|the)\b", " ", bare).split()


@given(st.text(), TEXTS)
def test_scores_stay_in_bounds_and_agree(answer: str, references: list[str]) -> None:
    overlap = f1(answer, references)

    assert 0 <= overlap <= 1
    assert exact_match(answer, references) <= overlap
    assert overlap == max(f1(answer, [reference]) for reference in references)


@given(st.text(alphabet="ab cd,"), st.text(alphabet="ab cd,"))
def test_f1_is_symmetric(one: str, other: str) -> None:
    assert f1(one, [other]) == f1(other, [one])


@given(st.text())
def test_a_text_agrees_with_itself(text: str) -> None:
    assert (exact_match(text, [text]), f1(text, [text])) == (1, 1.0)


def test_perplexity_is_per_token() -> None:
    assert perplexity(4 * math.log(0.25), 4) == pytest.approx(4.0)
    assert perplexity(0.0, 3) == 1.0


@pytest.mark.parametrize("logprob", [-math.inf, -1e6, math.nan])
def test_a_text_that_is_ruled_out_has_no_perplexity(logprob: float) -> None:
    with pytest.raises(InvalidInputError, match="no probability"):
        perplexity(logprob, 3)
