"""Prompts that are scored, prompts of tokens, and biased tokens, beside ordinary requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from asking import collect, collect_all, job

from neuron.errors import InvalidInputError
from neuron.models.job import JobInput, ResumeState
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.transformers_engine import batcher
from neuron.runtimes.transformers_runtime import TransformersRuntime

PROMPTS = ["Hello", "What is the capital of France?", "Grüße 🙂 aus Köln", "over the lazy dog " * 9]


@pytest.fixture(scope="module")
def plain(cache: Path) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = cache / "tiny" / "1"
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def check(plain: Any, prompt: list[int], told: list[dict[str, Any]], top: int) -> None:
    model, tokenizer = plain
    with torch.inference_mode():
        expected = torch.log_softmax(model(torch.tensor([prompt])).logits[0, :-1], dim=-1)
    assert [entry["token_id"] for entry in told] == prompt
    assert [entry["token"] for entry in told] == [tokenizer.decode([one]) for one in prompt]
    assert told[0]["logprob"] is None
    for entry, token, row in zip(told[1:], prompt[1:], expected, strict=True):
        assert entry["logprob"] == pytest.approx(float(row[token]), abs=1e-3)
        best = row.topk(top)
        assert [other["token_id"] for other in entry["top"]] == best.indices.tolist()


@pytest.mark.parametrize("max_rows", [16, 1], ids=["batched", "alone"])
@pytest.mark.parametrize("pass_tokens", [256, 7], ids=["whole", "in-chunks"])
async def test_a_prompts_scores_are_those_of_a_plain_forward_pass(
    cache: Path, plain: Any, max_rows: int, pass_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "MAX_SCORED_TOKENS", pass_tokens)
    runtime = TransformersRuntime(EngineSettings(model_cache_dir=cache, max_batch_size=max_rows))
    await runtime.load_model("tiny", "1", {})
    try:
        scored = [
            job(text, raw=True, prompt_logprobs=2, max_tokens=count)
            for text in PROMPTS
            for count in (0, 3)
        ]
        asked = [job(text, raw=True, max_tokens=3) for text in PROMPTS]
        answers = await collect_all(runtime, scored + asked)
    finally:
        await runtime.unload_model()
    for index, text in enumerate(PROMPTS):
        (nothing, none, read), (said, drawn, output) = answers[2 * index : 2 * index + 2]
        prompt = plain[1].encode(text)
        check(plain, prompt, output.metadata["prompt_logprobs"], 2)
        check(plain, prompt, read.metadata["prompt_logprobs"], 2)
        assert (nothing, none, read.result) == ("", [], "")
        assert read.metadata["finish_reason"] == "length"
        assert read.metadata["tokens_generated"] == 0
        assert "logprobs" not in output.metadata
        assert answers[len(scored) + index][:2] == (said, drawn), "scoring changes nothing"


async def test_a_prompt_of_tokens_is_read_as_it_stands(
    runtime: TransformersRuntime, plain: Any
) -> None:
    tokens = plain[1].encode("What is the capital")
    expected = await collect(runtime, job("What is the capital", raw=True))
    asked = JobInput(
        prompt_token_ids=tokens,
        parameters={"temperature": 0, "max_tokens": 24, "prompt_logprobs": 0, "logprobs": 1},
    )
    text, drawn, output = await collect(runtime, asked)
    assert (text, drawn) == expected[:2]
    assert output.metadata["prompt_text"] == "What is the capital"
    assert len(output.metadata["prompt_logprobs"]) == len(tokens)
    resumed = ResumeState(token_ids=drawn[:5], text="")
    again = (await collect(runtime, asked, resumed))[2]
    assert again.result == output.result
    told, retold = output.metadata, again.metadata
    for name in ("prompt_logprobs", "logprobs"):
        assert [one["token_id"] for one in retold[name]] == [one["token_id"] for one in told[name]]
    del asked.parameters["logprobs"]
    at_its_end = (await collect(runtime, asked, ResumeState(token_ids=drawn, text=text)))[2]
    assert at_its_end.result == output.result
    assert at_its_end.metadata["prompt_logprobs"] == told["prompt_logprobs"]
    unknown = JobInput(prompt_token_ids=[5, 10**6])
    with pytest.raises(InvalidInputError, match=r"prompt_token_ids: 1000000 is not a token"):
        await collect(runtime, unknown)


async def test_a_bias_makes_and_forbids_tokens(runtime: TransformersRuntime) -> None:
    _, tokens, output = await collect(
        runtime, job("Hello", max_tokens=4, logit_bias={"9": 100}, logprobs=1)
    )
    assert tokens == [9] * 4
    assert output.metadata["logprobs"][0]["top"][0]["token_id"] != 9, "scores know no bias"
    [first, *_] = (await collect(runtime, job("Hello")))[1]
    assert first not in (await collect(runtime, job("Hello", logit_bias={str(first): -100})))[1]
    with pytest.raises(InvalidInputError, match="logit_bias: 99999 is not a token"):
        await collect(runtime, job("Hello", logit_bias={"99999": 1}))
