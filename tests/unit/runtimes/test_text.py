"""Text as it comes: whole characters, nothing lost, nothing behind a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neuron.runtimes.transformers_engine.text import Detokenizer, StopStrings


class Decoding:
    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, token_ids: Sequence[int], /) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text


def pieces(tokenizer: Any, tokens: Sequence[int], context: Sequence[int] = ()) -> list[str]:
    detokenizer = Detokenizer(Decoding(tokenizer), context)
    return [*(detokenizer.add(token) for token in tokens), detokenizer.flush()]


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
@example(text="日本語 🙂🚀 👩‍👩‍👧 naïve")
@example(text="\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd")
def test_pieces_of_real_text_are_whole_characters(tokenizer: Any, text: str) -> None:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    got = pieces(tokenizer, tokens)
    assert "".join(got) == tokenizer.decode(tokens, skip_special_tokens=True)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in got)


@settings(max_examples=200, deadline=None)
@given(tokens=st.lists(st.integers(0, 399), max_size=120))
def test_pieces_of_gibberish_join_to_the_whole(tokenizer: Any, tokens: list[int]) -> None:
    joined = "".join(pieces(tokenizer, tokens))
    assert joined == tokenizer.decode(tokens, skip_special_tokens=True)


def test_gibberish_bytes_are_not_held_back_for_ever(tokenizer: Any) -> None:
    byte = tokenizer.encode("é", add_special_tokens=False)[-1]
    broken = next(t for t in range(3, 259) if tokenizer.decode([t]) == "\ufffd")
    got = pieces(tokenizer, [broken] * 200 + [byte])
    assert max(map(len, got)) < 70
    assert "".join(got[:100])


def test_the_prompt_is_context_and_not_output(tokenizer: Any) -> None:
    prompt = tokenizer.encode("What is", add_special_tokens=False)
    answer = tokenizer.encode(" Paris", add_special_tokens=False)
    assert "".join(pieces(tokenizer, answer, prompt)) == " Paris"


@pytest.mark.parametrize(
    ("stops", "text", "found"),
    [
        (["END"], "abc END def", (4, "END")),
        (["def", "abc"], "xabc def", (1, "abc")),
        (["ab", "abc"], "xabc", (1, "abc")),
        (["zz"], "z z", None),
        ([], "anything", None),
    ],
)
def test_the_earliest_stop_string_is_found(
    stops: list[str], text: str, found: tuple[int, str] | None
) -> None:
    assert StopStrings(stops).find(text, 0) == found


def test_a_stop_string_across_pieces_is_found() -> None:
    stops = StopStrings(["</answer>"])
    assert stops.find("yes</ans", 0) is None
    assert stops.find("yes</answer>", len("yes</ans")) == (3, "</answer>")


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_may_become_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    watcher = StopStrings(stops)
    held = watcher.held_back(text)
    tails = [text[len(text) - size :] for size in range(1, len(text) + 1)]
    could_grow = [
        len(tail) for tail in tails if any(stop.startswith(tail) and stop != tail for stop in stops)
    ]
    if not any(stop in text for stop in stops):
        assert held == max(could_grow, default=0)
