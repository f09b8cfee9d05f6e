"""Completions whose prompts are scored, as harnesses for evaluations ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from tiny_llama import build_tiny_llama

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

TEXTS = ["The capital of France is Paris.", "Grüße aus Köln 🙂", "one two three four five"]
ASKED: dict[str, Any] = {"model": "chat", "temperature": 0, "echo": True, "logprobs": 2}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model and its tokenizer, without anything around them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder: Path = build_tiny_llama(tmp_path_factory.mktemp("plain"), context=512)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def scores(plain: Any, tokens: list[int]) -> list[float]:
    import torch

    with torch.inference_mode():
        logits = plain[0](torch.tensor([tokens])).logits[0, :-1]
    found = torch.log_softmax(logits, -1)[range(len(tokens) - 1), tokens[1:]]
    return [float(one) for one in found]


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_prompts_are_scored_as_texts_and_as_tokens(
    client: AsyncOpenAI, plain: Any, max_tokens: int
) -> None:
    tokens = [plain[1].encode(text) for text in TEXTS]
    as_texts = await client.completions.create(**ASKED, prompt=TEXTS, max_tokens=max_tokens)
    as_tokens = await client.completions.create(**ASKED, prompt=tokens, max_tokens=max_tokens)
    one = await client.completions.create(**ASKED, prompt=tokens[0], max_tokens=max_tokens)
    assert one.choices[0].model_dump() == as_tokens.choices[0].model_dump()
    for answer in (as_texts, as_tokens):
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == sum(map(len, tokens))
        assert answer.usage.completion_tokens == len(TEXTS) * max_tokens
        for choice, text, prompt in zip(answer.choices, TEXTS, tokens, strict=True):
            assert choice.finish_reason == "length"
            assert choice.text.startswith(text)
            assert max_tokens or choice.text == text
            told = choice.logprobs
            assert told is not None
            assert told.token_logprobs is not None
            assert told.top_logprobs is not None
            assert told.text_offset is not None
            assert len(told.tokens or []) == len(prompt) + max_tokens
            assert told.token_logprobs[0] is None, "nothing goes before it"
            assert told.top_logprobs[0] is None
            assert told.token_logprobs[1 : len(prompt)] == pytest.approx(
                scores(plain, prompt), abs=1e-3
            )
            for best, logprob in zip(told.top_logprobs[1:], told.token_logprobs[1:], strict=True):
                assert 1 <= len(best) <= 2, "halves of characters have one text"
                assert max(best.values()) >= logprob
            assert len(told.text_offset) == len(told.tokens or [])
    first = as_texts.choices[0]
    assert first.logprobs is not None
    for token, offset in zip(
        first.logprobs.tokens or [], first.logprobs.text_offset or [], strict=True
    ):
        assert first.text[offset:].startswith(token)


async def test_an_echo_that_is_streamed_has_the_same_scores(client: AsyncOpenAI) -> None:
    asked = ASKED | {"prompt": TEXTS[0], "max_tokens": 4}
    whole = (await client.completions.create(**asked)).choices[0]
    chunks = [chunk async for chunk in await client.completions.create(**asked, stream=True)]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    assert chunks[-1].choices[0].logprobs == whole.logprobs
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


async def test_a_prompt_of_tokens_is_echoed_and_continued(client: AsyncOpenAI, plain: Any) -> None:
    tokens = plain[1].encode(TEXTS[1])
    asked: dict[str, Any] = {"model": "chat", "temperature": 0, "max_tokens": 6}
    by_text = await client.completions.create(**asked, prompt=TEXTS[1])
    by_tokens = await client.completions.create(**asked, prompt=tokens)
    echoed = await client.completions.create(**asked, prompt=tokens, echo=True)
    assert by_tokens.choices[0].text == by_text.choices[0].text
    assert echoed.choices[0].text == TEXTS[1] + by_text.choices[0].text
    assert echoed.choices[0].logprobs is None


async def test_a_bias_decides(client: AsyncOpenAI, plain: Any) -> None:
    asked: dict[str, Any] = {"model": "chat", "temperature": 0, "max_tokens": 3}
    [token] = plain[1].encode("z")
    answer = await client.completions.create(**asked, prompt=TEXTS[0], logit_bias={str(token): 100})
    assert answer.choices[0].text == "zzz"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": 0, "echo": False}, "max_tokens of 0 goes with echo"),
        ({"prompt": []}, "prompt is 1 to 128 prompts"),
        ({"prompt": [[5], []]}, "none of them empty"),
        ({"prompt": [5, 10**6]}, "is not a token of chat:1"),
        ({"prompt": [[5]], "stream": True}, "echo goes without stream"),
        ({"prompt": [5] * 600}, "the prompt has 600 tokens"),
        ({"model": "reader"}, "text"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
    ],
)
async def test_what_cannot_be_scored_is_refused(
    client: AsyncOpenAI, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        await client.completions.create(**ASKED | {"prompt": "Hello", "max_tokens": 1} | change)
