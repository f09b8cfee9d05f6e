"""What vLLM answers, against transformers' generate() and our own runtime on the same weights."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asking import collect, collect_all, job

from neuron.errors import InvalidInputError
from neuron.models.job import ChatMessage, JobInput, ResumeState
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.engine_client import EngineClient
from neuron.runtimes.transformers_runtime import TransformersRuntime

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROMPTS = [
    "Hello",
    "What is the capital of France? Tell me in one word, please.",
    "🙂",
    "東京",
    "x " * 40,
    "Count to ten.",
]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ours(cache: Path) -> AsyncIterator[TransformersRuntime]:
    loaded = TransformersRuntime(EngineSettings(model_cache_dir=cache))
    await loaded.load_model("tiny", "1", {"torch_dtype": "float32"})
    yield loaded
    await loaded.unload_model()


@pytest.fixture(scope="session")
def reference(cache: Path) -> Callable[[str, int], list[int]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(cache / "tiny" / "1")
    model = AutoModelForCausalLM.from_pretrained(cache / "tiny" / "1")

    def generate(prompt: str, max_tokens: int) -> list[int]:
        chat = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        answer = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        return [int(token) for token in answer[0, inputs["input_ids"].shape[1] :]]

    return generate


async def test_greedy_is_generate_token_for_token_alone_and_among_32(
    engine: EngineClient, reference: Callable[[str, int], list[int]]
) -> None:
    prompts = [f"{PROMPTS[index % 6]}{index}" for index in range(32)]
    expected = [reference(prompt, 24) for prompt in prompts]
    alone = [await collect(engine, job(prompt)) for prompt in prompts[:6]]
    together = await collect_all(engine, [job(prompt) for prompt in prompts])
    assert [tokens for _, tokens, _ in alone] == expected[:6]
    assert [tokens for _, tokens, _ in together] == expected
    for text, _, output in together:
        assert text == output.result
    assert len({output.result for _, _, output in together}) > 20


async def test_an_answer_comes_in_pieces(engine: EngineClient) -> None:
    one = job("Hello", ignore_eos=True, max_tokens=480, stream=True)
    pieces = [piece async for piece in engine.generate(one)]
    assert len(pieces) > 2  # a reader that is slow finds several in one
    assert [piece.output is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]


async def test_where_nobody_reads_along_pieces_are_few_and_the_answer_is_the_same(
    engine: EngineClient,
) -> None:
    one = job("Hello", ignore_eos=True, max_tokens=96)
    pieces = [piece async for piece in engine.generate(one)]
    assert len(pieces) <= 1 + 96 // 16
    told = [token for piece in pieces for token in piece.token_ids]
    streamed = job("Hello", ignore_eos=True, max_tokens=96, stream=True)
    assert told == (await collect(engine, streamed))[1]


async def test_metadata_and_metrics_are_those_of_every_runtime(
    engine: EngineClient, ours: TransformersRuntime
) -> None:
    one = job("Hello", max_tokens=5)
    _, _, got = await collect(engine, one)
    _, _, expected = await collect(ours, one)
    assert got.result == expected.result
    assert got.metadata == {**expected.metadata, "runtime": "vllm", "cached_prompt_tokens": 0}
    assert got.metrics.keys() == expected.metrics.keys()
    metrics = got.metrics
    assert 0 <= metrics["queue_ms"] < metrics["first_token_latency_ms"] <= metrics["latency_ms"]
    assert metrics["prefill_ms"] > 0
    assert metrics["tokens_per_second"] > 0


@pytest.mark.parametrize(
    "parameters",
    [
        {"repetition_penalty": 1.3},
        {"frequency_penalty": 1.5, "ignore_eos": True},
        {"presence_penalty": 1.0, "frequency_penalty": -0.5},
        {"min_tokens": 20, "stop": ["e"]},
        {"min_tokens": 24, "ignore_eos": True},
        {"stop_token_ids": list(range(60, 90)), "min_tokens": 5},
    ],
)
async def test_parameters_mean_what_they_mean_on_every_runtime(
    engine: EngineClient, ours: TransformersRuntime, parameters: dict[str, Any]
) -> None:
    for prompt in PROMPTS:
        one = job(prompt, **parameters)
        text, tokens, got = await collect(engine, one)
        assert (text, tokens) == (await collect(ours, one))[:2]
        assert got.metadata["finish_reason"] in {"stop", "length"}


async def test_a_stop_string_ends_the_text_before_it(engine: EngineClient) -> None:
    whole = (await collect(engine, job("Hello", ignore_eos=True)))[0]
    stop = whole[6:9]
    text, _, output = await collect(engine, job("Hello", stop=[stop], ignore_eos=True))
    assert output.result == text == whole[: whole.index(stop)]
    assert output.metadata["finish_reason"] == "stop"
    assert output.metadata["stop_reason"] == stop


async def test_a_seed_is_an_answer_alone_and_among_others(engine: EngineClient) -> None:
    jobs = [
        job(prompt, temperature=1.0, top_p=0.95, top_k=50, seed=2**62 + index, ignore_eos=True)
        for index, prompt in enumerate(PROMPTS)
    ]
    alone = [(await collect(engine, one))[1] for one in jobs]
    together = [tokens for _, tokens, _ in await collect_all(engine, jobs)]
    assert alone == together
    other = job(PROMPTS[0], temperature=1.0, top_p=0.95, top_k=50, seed=7, ignore_eos=True)
    assert (await collect(engine, other))[1] != alone[0]


@pytest.mark.parametrize("parameters", [{}, {"frequency_penalty": 1.5, "min_tokens": 20}])
@pytest.mark.parametrize("kept", [1, 10, 24])
async def test_an_answer_goes_on_where_it_was_interrupted(
    engine: EngineClient, parameters: dict[str, Any], kept: int
) -> None:
    one = job("Hello", **parameters)
    text, tokens, whole = await collect(engine, one)
    had, seen = "", 0
    async with aclosing(engine.generate(one)) as generations:
        async for piece in generations:
            if seen + len(piece.token_ids) > kept:
                break
            had += piece.text
            seen += len(piece.token_ids)
    resume = ResumeState(token_ids=tokens[:seen], text=had)
    new_text, new_tokens, output = await collect(engine, one, resume)
    assert tokens[:seen] + new_tokens == tokens
    assert had + new_text == text
    assert output.result == whole.result
    for key in ("tokens_generated", "finish_reason", "prompt_tokens"):
        assert output.metadata[key] == whole.metadata[key]
    assert output.metadata["resumed_tokens"] == seen


async def test_a_resumed_sampled_answer_is_the_same_each_time(engine: EngineClient) -> None:
    one = job("Hello", temperature=1.0, seed=3, ignore_eos=True)
    _, tokens, _ = await collect(engine, one)
    resume = ResumeState(token_ids=tokens[:8], text="")
    first, second = [await collect(engine, one, resume) for _ in range(2)]
    assert first[1] == second[1]
    assert len(first[1]) == 16


async def test_a_prompt_read_before_is_not_read_again(engine: EngineClient) -> None:
    one = job("What was said before, at some length. " * 8, max_tokens=4)
    _, tokens, first = await collect(engine, one)
    _, again, second = await collect(engine, one)
    assert first.metadata["cached_prompt_tokens"] == 0
    assert second.metadata["cached_prompt_tokens"] > 100
    assert tokens == again


async def test_a_bad_request_fails_alone(engine: EngineClient) -> None:
    async with asyncio.TaskGroup() as group:
        good = group.create_task(collect(engine, job("Hello", ignore_eos=True)))
        with pytest.raises(InvalidInputError, match="9999 is not a token of tiny:1"):
            await collect(engine, job("Hello", stop_token_ids=[9999]))
        with pytest.raises(InvalidInputError, match="batch_inference"):
            await collect(engine, JobInput(inputs=["a", "b"]))
    assert good.result()[2].metadata["tokens_generated"] == 24


async def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(
    engine: EngineClient,
) -> None:
    with pytest.raises(InvalidInputError, match=r"the prompt has \d+ tokens .* at most 512"):
        await collect(engine, job("é🙂" * 600))


async def test_the_context_bounds_the_answer(engine: EngineClient) -> None:
    _, _, output = await collect(engine, job("Hello", max_tokens=5000, ignore_eos=True))
    metadata = output.metadata
    assert metadata["prompt_tokens"] + metadata["tokens_generated"] == 512
    assert metadata["finish_reason"] == "length"


async def test_a_prompt_that_leaves_room_for_one_token_gets_one(engine: EngineClient) -> None:
    shorter = (await collect(engine, job("a", raw=True, max_tokens=1)))[2]
    assert shorter.metadata["prompt_tokens"] == 1
    _, _, output = await collect(engine, job("q" * 511, raw=True, ignore_eos=True))
    assert output.metadata["prompt_tokens"] == 511
    assert output.metadata["tokens_generated"] == 1


async def test_prompt_context_and_messages_meet_in_the_template(engine: EngineClient) -> None:
    chat = [
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="Hi"),
    ]
    parameters = {"temperature": 0, "max_tokens": 8}
    expected = (await collect(engine, JobInput(messages=chat, parameters=parameters)))[2]
    prompt = JobInput(prompt="Hi", context="Be brief.", parameters=parameters)
    got = (await collect(engine, prompt))[2]
    assert got.result == expected.result
    assert got.metadata["prompt_tokens"] == expected.metadata["prompt_tokens"]


async def test_a_cancelled_request_is_aborted_in_vllm(
    engine: EngineClient, until: Callable[..., Any]
) -> None:
    async def rounds() -> int:
        """What the engine says now; an answer to an earlier ping may come first."""
        for _ in range(3):
            asked = time.monotonic()
            engine.ping()
            await until(lambda asked=asked: engine.silent_seconds < time.monotonic() - asked)
        return engine.steps

    async def rounds_at_rest() -> int:
        before, now = -1, await rounds()
        while now != before:
            before, now = now, await rounds()
        return now

    async def endless(event: asyncio.Event) -> None:
        async with aclosing(engine.generate(job("Hello", max_tokens=480, ignore_eos=True))) as it:
            async for _ in it:
                event.set()

    first = [asyncio.Event() for _ in range(8)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(endless(event)) for event in first]
        for event in first:
            await event.wait()
        for task in tasks:
            task.cancel()
        cancelled = await rounds()
    # The last to begin had hardly begun: had it not been aborted, nearly 480 rounds would go by.
    assert await rounds_at_rest() - cancelled < 240
    await collect(engine, job("Hello", max_tokens=4, ignore_eos=True))
    assert engine.engine_requests == 0
