"""One request's tokens and text: given answers, and scores that are told again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from neuron.errors import InvalidInputError, NeuronError
from neuron.models.job import ResumeState
from neuron.models.sampling import SamplingParameters
from neuron.runtimes.transformers_engine.drawing import Drawn, draw
from neuron.runtimes.transformers_engine.guide import Guide
from neuron.runtimes.transformers_engine.logprobs import score
from neuron.runtimes.transformers_engine.row import Row


class Lowering:
    """Spells its tokens in small letters, whatever the text was."""

    def decode(self, token_ids: Sequence[int], /) -> str:
        return "".join(chr(97 + token) for token in token_ids)


class LostGuide(Guide):
    """Its grammar has become too complex."""

    def __init__(self) -> None:
        pass

    def allowed(self) -> torch.Tensor:
        raise InvalidInputError("the grammar cannot be followed further")


def row(
    *, resume: ResumeState | None = None, given: list[int] | None = None, **parameters: Any
) -> Row:
    made = SamplingParameters(temperature=0, **parameters)
    scored = made.logprobs is not None or made.target is not None
    return Row(
        [0], made, max_tokens=5, end_tokens=[3], seed=1, tokenizer=Lowering(),
        resume=resume, target=given, scored=scored,
    )  # fmt: skip


def step(one: Row, best: int) -> tuple[str, list[int]]:
    """Let the model prefer a token; what the row has to say then."""
    logits = torch.nn.functional.one_hot(torch.tensor([best]), 26).float()
    (drawn,) = draw(logits, [one])
    assert isinstance(drawn, Drawn)
    one.accept(drawn.token, drawn.score)
    return one.take()


def test_a_target_is_taken_in_whatever_the_model_prefers() -> None:
    one = row(target="bdc", given=[1, 3, 2], stop=["b"], min_tokens=9)
    assert [step(one, 20) for _ in range(3)] == [("b", [1]), ("d", [3]), ("c", [2])]
    assert one.finish_reason == "stop"
    assert one.stop_reason is None
    worse = torch.log_softmax(torch.nn.functional.one_hot(torch.tensor(20), 26).float(), -1)[0]
    assert [score.logprob for score in one.scores] == [worse.item()] * 3


def test_a_target_keeps_its_spelling() -> None:
    one = row(target="bCd", given=[1, 2, 3])
    pieces = [step(one, 0)[0] for _ in range(3)]
    assert pieces == ["b", "", "Cd"]
    assert one.text == "bCd"


def test_a_resumed_row_is_scored_again_and_says_only_what_is_new() -> None:
    one = row(resume=ResumeState(token_ids=[7, 8], text="hi"), logprobs=1)
    assert one.finish_reason is None
    assert one.to_read == [0]
    assert [step(one, 9) for _ in range(3)] == [("", []), ("", []), ("j", [9])]
    assert one.tokens == [7, 8, 9]
    assert len(one.scores) == 3
    assert one.scores[2].top == ((9, one.scores[2].logprob),)
    assert one.metadata()["resumed_tokens"] == 2


def test_a_row_that_asks_for_no_scores_has_none() -> None:
    one = row(resume=ResumeState(token_ids=[7, 8], text="hi"))
    assert one.to_read == [0, 7, 8]
    assert step(one, 9) == ("j", [9])
    assert one.scores == []


def test_what_is_not_a_number_fails_its_row_alone() -> None:
    logits = torch.zeros(3, 26)
    logits[1] = torch.nan
    rows = [row(), row(target="b", given=[1]), row(logprobs=2)]
    good, bad, scored = draw(logits, rows)
    assert isinstance(good, Drawn)
    assert good.score is None
    assert isinstance(bad, NeuronError)
    assert "not a number" in bad.message
    assert isinstance(scored, Drawn)
    assert scored.score is not None
    assert len(scored.score.top) == 2


def test_a_grammar_that_cannot_be_followed_fails_its_row_alone() -> None:
    lost = Row(
        [0], SamplingParameters(regex="a"), max_tokens=5, end_tokens=[3], seed=1,
        tokenizer=Lowering(), guide=LostGuide(),
    )  # fmt: skip
    good, bad = draw(torch.eye(26)[[4, 5]], [row(), lost])
    assert good == Drawn(4)
    assert isinstance(bad, InvalidInputError)


def test_what_is_impossible_has_a_number_that_json_can_say() -> None:
    logits = torch.full((1, 26), -torch.inf)
    logits[0, 3] = 0
    (impossible,) = score(logits, [5], [2])
    assert impossible.logprob == -9999.0
    assert impossible.top[0] == (3, 0.0)
    assert impossible.top[1][1] == -9999.0
