"""Log-probabilities, scored targets, grammars and several choices, beside ordinary requests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from asking import collect, collect_all, job

from neuron.errors import InvalidInputError
from neuron.models.job import JobInput, ResumeState
from neuron.runtimes.transformers_runtime import TransformersRuntime

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Köln", "東京"]},
        "people": {"type": "integer", "minimum": 0, "maximum": 999},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["city", "people", "tags"],
    "additionalProperties": False,
}
PROMPTS = ["Hello", "What is the capital of France? Tell me in one word, please.", "🙂", "x " * 40]


class Reference:
    """The plain model."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder)

    def prompt(self, text: str) -> list[int]:
        chat = [{"role": "user", "content": text}]
        templated = self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True
        )
        tokens: list[int] = self.tokenizer.encode(templated, add_special_tokens=False)
        return tokens

    def logprobs(self, prompt: list[int], answer: list[int]) -> torch.Tensor:
        """Of the answer's positions: [tokens, vocabulary]."""
        with torch.inference_mode():
            logits = self.model(torch.tensor([[*prompt, *answer]])).logits[0]
        return torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)


@pytest.fixture(scope="module")
def reference(cache: Path) -> Reference:
    return Reference(cache / "tiny" / "1")


def check_scores(
    reference: Reference, prompt: str, tokens: list[int], told: list[dict[str, Any]], top: int
) -> None:
    expected = reference.logprobs(reference.prompt(prompt), tokens)
    assert [entry["token_id"] for entry in told] == tokens
    for entry, row in zip(told, expected, strict=True):
        assert entry["logprob"] == pytest.approx(row[entry["token_id"]].item(), abs=1e-3)
        assert entry["token"] == reference.tokenizer.decode([entry["token_id"]])
        best, ids = row.topk(top) if top else (torch.empty(0), torch.empty(0))
        assert [other["logprob"] for other in entry["top"]] == pytest.approx(
            best.tolist(), abs=1e-3
        )
        assert [other["token_id"] for other in entry["top"]] == ids.tolist()
        assert all(set(other) == {"token_id", "token", "logprob"} for other in entry["top"])


@pytest.mark.parametrize("top", [0, 3])
async def test_logprobs_are_those_of_a_plain_forward_pass(
    runtime: TransformersRuntime, reference: Reference, top: int
) -> None:
    one = job("Hello", logprobs=top, temperature=1.5, seed=3, repetition_penalty=1.3, top_k=40)
    _, tokens, output = await collect(runtime, one)
    assert len(tokens) == 24
    check_scores(reference, "Hello", tokens, output.metadata["logprobs"], top)
    _, without, plain = await collect(
        runtime, job("Hello", temperature=1.5, seed=3, repetition_penalty=1.3, top_k=40)
    )
    assert without == tokens
    assert "logprobs" not in plain.metadata


async def test_a_target_is_scored_as_the_models_own_loss_says(
    runtime: TransformersRuntime, reference: Reference
) -> None:
    target = "Paris, of course: 東京 🙂!"
    one = job("Where?", target=target, max_tokens=1, stop=["o"], temperature=2, min_tokens=3)
    text, tokens, output = await collect(runtime, one)
    expected = reference.tokenizer.encode(target, add_special_tokens=False)
    assert tokens == expected
    assert text == output.result == target
    metadata = output.metadata
    assert metadata["tokens_generated"] == len(expected)
    assert metadata["finish_reason"] == "stop"
    prompt = reference.prompt("Where?")
    labels = torch.tensor([[-100] * len(prompt) + expected])
    with torch.inference_mode():
        loss = reference.model(torch.tensor([prompt + expected]), labels=labels).loss
    assert metadata["target_logprob"] == pytest.approx(-loss.item() * len(expected), rel=1e-4)
    check_scores(reference, "Where?", tokens, metadata["logprobs"], 0)


async def test_a_target_may_name_tokens_that_would_end_an_answer(
    runtime: TransformersRuntime,
) -> None:
    target = "a<|im_end|>b"
    text, tokens, output = await collect(runtime, job("Hi", target=target, logprobs=2))
    assert text == output.result == target
    assert [entry["token"] for entry in output.metadata["logprobs"]] == ["a", "<|im_end|>", "b"]
    assert len(output.metadata["logprobs"][1]["top"]) == 2
    assert len(tokens) == 3


async def test_a_target_that_does_not_fit_is_refused_with_the_numbers(
    runtime: TransformersRuntime,
) -> None:
    with pytest.raises(InvalidInputError, match=r"target has \d{3} tokens.* reads \d+ more"):
        await runtime.execute(job("Hi", target="é🙂" * 100))


async def test_greedy_stays_generate_whatever_stands_beside_it(
    runtime: TransformersRuntime, reference: Reference
) -> None:
    jobs = [
        job(PROMPTS[0]),
        job(PROMPTS[1], logprobs=2),
        job("Where?", target="The capital of France is Paris, said the assistant."),
        job(PROMPTS[2], json_schema=SCHEMA, max_tokens=100),
        job(PROMPTS[3], max_tokens=40),
        job("A number:", regex="[0-9]{3}-[0-9]{3}", logprobs=1, temperature=1, seed=5),
        job(PROMPTS[1], temperature=1, seed=8, presence_penalty=1.0),
        job(PROMPTS[0], max_tokens=5),
    ]
    alone = [await collect(runtime, one) for one in jobs]
    together = await collect_all(runtime, jobs)
    for lonely, joined in zip(alone, together, strict=True):
        assert lonely[:2] == joined[:2]
    for index in (0, 4, 7):
        prompt = reference.prompt(jobs[index].prompt or "")
        expected = reference.model.generate(
            torch.tensor([prompt]), max_new_tokens=jobs[index].sampling.max_tokens, do_sample=False
        )
        assert together[index][1] == expected[0, len(prompt) :].tolist()
    check_scores(reference, PROMPTS[1], together[1][1], together[1][2].metadata["logprobs"], 2)
    check_scores(reference, "A number:", together[5][1], together[5][2].metadata["logprobs"], 1)


@pytest.mark.parametrize("temperature", [0, 1.2])
async def test_a_schema_is_obeyed(runtime: TransformersRuntime, temperature: float) -> None:
    one = job("Hello", json_schema=SCHEMA, max_tokens=150, temperature=temperature, seed=1)
    text, _, output = await collect(runtime, one)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert output.metadata["finish_reason"] == "stop"
    assert output.result == text


async def test_a_regex_matches_whole(runtime: TransformersRuntime) -> None:
    text, _, output = await collect(
        runtime, job("Hello", regex=r"(ab|cd)+-[0-9]{2,4}", min_tokens=20)
    )
    assert re.fullmatch(r"(ab|cd)+-[0-9]{2,4}", text) or (
        output.metadata["finish_reason"] == "length"
    )
    text, _, output = await collect(runtime, job("Hello", regex="[A-Z]{3}"))
    assert re.fullmatch("[A-Z]{3}", text)
    assert output.metadata["finish_reason"] == "stop"


async def test_a_choice_is_one_of_those_given(runtime: TransformersRuntime) -> None:
    choices = ["Paris", "Par", 'a "quoted"\nline', "🙂🚀", "東京"]
    got = set()
    for seed in range(12):
        one = job("Where?", choice=choices, temperature=2, top_p=1, seed=seed, ignore_eos=True)
        output = await runtime.execute(one)
        assert output.metadata["finish_reason"] == "stop"
        got.add(output.result)
    assert got <= set(choices)
    assert len(got) > 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"regex": "[0-9"}, "regex cannot be followed: unclosed character class"),
        ({"regex": "(?=a)b"}, "regex cannot be followed: look-around"),
        ({"json_schema": {"type": "nope"}}, "json_schema cannot be followed: Invalid type: nope"),
        ({"json_schema": {"if": {}}}, r'json_schema cannot be followed: Unimplemented keys: \["if'),
        ({"adapter": "style:1"}, "LoRA adapters run on the vllm runtime"),
    ],
)
async def test_what_cannot_be_followed_is_refused_alone(
    runtime: TransformersRuntime, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        await runtime.execute(job("Hello", **parameters))
    assert (await runtime.execute(job("Hello"))).metadata["tokens_generated"] == 24


async def cut(runtime: TransformersRuntime, one: JobInput, at_least: int) -> tuple[str, list[int]]:
    text, tokens = "", list[int]()
    async with aclosing(runtime.generate(one)) as generations:
        async for piece in generations:
            text += piece.text
            tokens += piece.token_ids
            if len(tokens) >= at_least:
                break
    return text, tokens


@pytest.mark.parametrize("parameters", [{}, {"target": "The capital of France is Paris, said."}])
async def test_a_scored_answer_goes_on_and_tells_all_its_scores(
    runtime: TransformersRuntime, parameters: dict[str, Any]
) -> None:
    one = job("Hello", logprobs=1, **parameters)
    text, tokens, whole = await collect(runtime, one)
    had, seen = await cut(runtime, one, 7)
    assert len(seen) < len(tokens)
    new_text, new_tokens, output = await collect(
        runtime, one, ResumeState(token_ids=seen, text=had)
    )
    assert seen + new_tokens == tokens
    assert had + new_text == text
    assert output.metadata["resumed_tokens"] == len(seen)
    for mine, before in zip(output.metadata["logprobs"], whole.metadata["logprobs"], strict=True):
        assert mine["token_id"] == before["token_id"]
        assert mine["logprob"] == pytest.approx(before["logprob"], abs=1e-3)


async def test_a_guided_answer_begins_anew(runtime: TransformersRuntime) -> None:
    one = job("Hello", regex="[a-z]{12}")
    text, tokens, _ = await collect(runtime, one)
    had, seen = await cut(runtime, one, 2)
    resumed = await collect(runtime, one, ResumeState(token_ids=seen, text=had))
    assert resumed[:2] == (text, tokens)
    assert resumed[2].metadata["resumed_tokens"] == 0


async def test_several_choices_are_those_of_their_seeds(runtime: TransformersRuntime) -> None:
    parameters = {"temperature": 1.0, "max_tokens": 12, "logprobs": 1}
    output = await runtime.execute(job("Hello", n=3, seed=4, **parameters))
    seeds = [(4 + index * 0x9E3779B97F4A7C15) % 2**63 for index in range(3)]
    singles = [await runtime.execute(job("Hello", seed=seed, **parameters)) for seed in seeds]
    assert output.result == [single.result for single in singles]
    assert len(set(output.result)) == 3
    assert len(output.metadata["choices"]) == 3
    assert output.metadata["tokens_generated"] == sum(
        choice["tokens_generated"] for choice in output.metadata["choices"]
    )
    assert output.metadata["prompt_tokens"] == singles[0].metadata["prompt_tokens"]
    assert all(
        len(choice["logprobs"]) == choice["tokens_generated"]
        for choice in output.metadata["choices"]
    )


async def test_closing_several_choices_frees_their_places(
    runtime: TransformersRuntime, until: Callable[..., Any]
) -> None:
    import asyncio

    one = job("Hello", n=4, max_tokens=230, ignore_eos=True)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runtime.execute(one))
        await until(lambda: runtime.stats().active_requests == 4)
        task.cancel()
    await until(lambda: runtime.stats().active_requests == 0, 0.2)
