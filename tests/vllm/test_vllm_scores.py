"""Log-probabilities from vLLM, against a forward pass of transformers on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asking import collect, job

from neuron.errors import InvalidInputError
from neuron.models.job import JobInput, ResumeState
from neuron.runtimes.engine_client import EngineClient

pytestmark = pytest.mark.asyncio(loop_scope="session")

Forward = Callable[[str, list[int]], Any]
TOLERANCE = 2e-4


@pytest.fixture(scope="session")
def tokenizer(cache: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(cache / "tiny" / "1")


@pytest.fixture(scope="session")
def forward(cache: Path, tokenizer: Any) -> Forward:
    """The log-probabilities of every token at each place of an answer."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(cache / "tiny" / "1")

    def scores(prompt: str, answer: list[int]) -> Any:
        chat = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        read = tokenizer.encode(text, add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([read + answer])).logits[0, len(read) - 1 : -1]
        return logits.log_softmax(-1)

    return scores


def assert_scores(entries: list[dict[str, Any]], tokens: list[int], expected: Any) -> None:
    assert [entry["token_id"] for entry in entries] == tokens
    for entry, token, row in zip(entries, tokens, expected, strict=True):
        assert entry["logprob"] == pytest.approx(float(row[token]), abs=TOLERANCE)
        best = row.topk(len(entry["top"]))
        assert [other["token_id"] for other in entry["top"]] == best.indices.tolist()
        for other, logprob in zip(entry["top"], best.values.tolist(), strict=True):
            assert other["logprob"] == pytest.approx(logprob, abs=TOLERANCE)


@pytest.mark.parametrize("top", [0, 3, 20])
async def test_a_greedy_answers_scores_are_those_of_a_forward_pass(
    engine: EngineClient, forward: Forward, tokenizer: Any, top: int
) -> None:
    _, tokens, output = await collect(engine, job("Hello", logprobs=top))
    entries = output.metadata["logprobs"]
    assert all(len(entry["top"]) == top for entry in entries)
    assert_scores(entries, tokens, forward("Hello", tokens))
    assert [entry["token"] for entry in entries] == [tokenizer.decode([t]) for t in tokens]


async def test_scores_are_told_before_temperature_penalties_and_guides(
    engine: EngineClient, forward: Forward
) -> None:
    parameters = {"temperature": 1.7, "top_k": 5, "repetition_penalty": 1.5, "seed": 1}
    for more in (parameters, {"choice": ["Paris", "London"]}):
        _, tokens, output = await collect(engine, job("Hello", logprobs=2, **more))
        assert_scores(output.metadata["logprobs"], tokens, forward("Hello", tokens))
        assert len(tokens) > 1


async def test_a_stop_string_ends_the_scores_with_the_tokens(engine: EngineClient) -> None:
    whole = (await collect(engine, job("Hello", ignore_eos=True)))[0]
    _, tokens, output = await collect(engine, job("Hello", logprobs=0, stop=[whole[6:9]]))
    scored = [entry["token_id"] for entry in output.metadata["logprobs"]]
    assert scored == tokens
    assert len(scored) == output.metadata["tokens_generated"] < 24


@pytest.mark.parametrize("kept", [1, 10, 24])
async def test_an_interrupted_answer_has_the_scores_of_all_its_tokens(
    engine: EngineClient, forward: Forward, kept: int
) -> None:
    one = job("Hello", logprobs=2, ignore_eos=True)
    _, tokens, whole = await collect(engine, one)
    _, new, output = await collect(engine, one, ResumeState(token_ids=tokens[:kept], text=""))
    assert tokens[:kept] + new == tokens
    assert_scores(output.metadata["logprobs"], tokens, forward("Hello", tokens))
    assert output.result == whole.result


@pytest.mark.parametrize("target", ["The capital of France is Paris.", "a", "東京 🙂"])
@pytest.mark.parametrize("parameters", [{}, {"logprobs": 4, "max_tokens": 1, "stop": ["a"]}])
async def test_a_target_has_the_score_of_a_forward_pass(
    engine: EngineClient, forward: Forward, tokenizer: Any, target: str, parameters: Any
) -> None:
    expected = tokenizer.encode(target, add_special_tokens=False)
    text, tokens, output = await collect(engine, job("Hello", target=target, **parameters))
    metadata = output.metadata
    assert text == output.result == target
    assert tokens == expected
    assert metadata["tokens_generated"] == len(expected)
    assert metadata["finish_reason"] == "stop"
    scores = forward("Hello", expected)
    assert_scores(metadata["logprobs"], expected, scores)
    total = sum(float(row[token]) for row, token in zip(scores, expected, strict=True))
    assert metadata["target_logprob"] == pytest.approx(total, abs=TOLERANCE * len(expected))


async def test_a_target_is_read_anew_though_its_prompt_was_read_before(
    engine: EngineClient,
) -> None:
    prompt = "Something that was said at great length. " * 6
    one = job(prompt, target="Yes, it was. " * 5)
    first, second = [(await collect(engine, one))[2].metadata for _ in range(2)]
    assert first["target_logprob"] == pytest.approx(second["target_logprob"], abs=TOLERANCE)
    assert len(second["logprobs"]) == second["tokens_generated"]


async def test_prompt_and_target_may_fill_the_context_and_no_more(engine: EngineClient) -> None:
    _, _, fits = await collect(engine, job("q" * 500, raw=True, target="z" * 12))
    assert fits.metadata["prompt_tokens"] + fits.metadata["tokens_generated"] == 512
    with pytest.raises(InvalidInputError, match=r"and target have 513 tokens .* at most 512"):
        await collect(engine, job("q" * 500, raw=True, target="z" * 13))


@pytest.mark.parametrize("count", [0, 3])
async def test_a_prompts_own_tokens_have_the_scores_of_a_forward_pass(
    engine: EngineClient, cache: Path, tokenizer: Any, count: int
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    prompt = tokenizer.encode("What is the capital of France? Paris.")
    model = AutoModelForCausalLM.from_pretrained(cache / "tiny" / "1")
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
    parameters = {"temperature": 0, "prompt_logprobs": 3, "logprobs": 3, "max_tokens": count}
    asked = JobInput(prompt_token_ids=prompt, parameters=parameters)
    for _ in range(2):  # the second time it was read before
        text, tokens, output = await collect(engine, asked)
        first, *others = output.metadata["prompt_logprobs"]
        assert (first["token_id"], first["logprob"]) == (prompt[0], None)
        assert_scores(others, prompt[1:], expected)
        assert output.metadata["prompt_text"] == "What is the capital of France? Paris."
        assert len(tokens) == len(output.metadata["logprobs"]) == count
        assert output.metadata["finish_reason"] == "length"
        assert output.result == text


async def test_a_bias_makes_tokens(engine: EngineClient) -> None:
    _, tokens, _ = await collect(engine, job("Hello", max_tokens=3, logit_bias={"9": 100}))
    assert tokens == [9] * 3
    with pytest.raises(InvalidInputError, match="logit_bias: 99999 is not a token"):
        await collect(engine, job("Hello", logit_bias={"99999": 1}))
