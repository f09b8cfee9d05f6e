"""The Transformers runtime against the library's own generate(), on the same weights."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import torch
from asking import collect, collect_all, job

from neuron.errors import ArtifactCorruptError, InvalidInputError, NeuronError
from neuron.models.job import ChatMessage, JobInput, ResumeState
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.transformers_runtime import TransformersRuntime

PROMPTS = [
    "Hello",
    "What is the capital of France? Tell me in one word, please.",
    "🙂",
    "東京",
    "x " * 40,
    "Count to ten.",
]


@pytest.fixture(scope="module")
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


async def test_greedy_is_generate_token_for_token_alone_and_in_a_batch(
    runtime: TransformersRuntime, reference: Callable[[str, int], list[int]]
) -> None:
    expected = [reference(prompt, 24) for prompt in PROMPTS]
    alone = [await collect(runtime, job(prompt)) for prompt in PROMPTS]
    together = await collect_all(runtime, [job(prompt) for prompt in PROMPTS])
    assert [tokens for _, tokens, _ in alone] == expected
    assert [tokens for _, tokens, _ in together] == expected
    for text, _, output in together:
        assert text == output.result


async def test_rows_that_join_and_leave_at_any_time_stay_themselves(
    runtime: TransformersRuntime, reference: Callable[[str, int], list[int]]
) -> None:
    rng = random.Random(3)
    plan = [(rng.choice(PROMPTS) + str(index), rng.randrange(1, 60)) for index in range(40)]

    async def late(prompt: str, max_tokens: int, turns: int) -> list[int]:
        for _ in range(turns):
            await asyncio.sleep(0.001)
        return (await collect(runtime, job(prompt, max_tokens=max_tokens)))[1]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(late(*one, rng.randrange(60))) for one in plan]
    for (prompt, max_tokens), task in zip(plan, tasks, strict=True):
        assert task.result() == reference(prompt, max_tokens)


async def test_output_tells_what_it_promises(runtime: TransformersRuntime) -> None:
    output = await runtime.execute(job("Hello", max_tokens=5))
    assert output.metadata["model"] == "tiny:1"
    assert output.metadata["tokens_generated"] == 5
    assert output.metadata["finish_reason"] == "length"
    assert output.metadata["prompt_tokens"] > 5
    metrics = output.metrics
    assert 0 < metrics["first_token_latency_ms"] <= metrics["latency_ms"]
    assert metrics["tokens_per_second"] > 0


async def test_a_stream_is_the_result_in_pieces(runtime: TransformersRuntime) -> None:
    pieces = [piece async for piece in runtime.execute_stream(job("Hello"))]
    assert len(pieces) > 5
    assert "".join(pieces) == (await runtime.execute(job("Hello"))).result


async def test_stop_strings_end_the_text_before_them(runtime: TransformersRuntime) -> None:
    whole = (await runtime.execute(job("Hello"))).result
    stop = whole[6:9]
    text, _, output = await collect(runtime, job("Hello", stop=[stop]))
    assert output.result == text == whole[: whole.index(stop)]
    assert output.metadata["finish_reason"] == "stop"
    assert output.metadata["stop_reason"] == stop


async def test_a_stop_token_ends_the_answer_and_counts(runtime: TransformersRuntime) -> None:
    _, tokens, _ = await collect(runtime, job("Hello"))
    end = next(i for i, token in enumerate(tokens) if i > 2 and token not in tokens[:i])
    _, got, output = await collect(runtime, job("Hello", stop_token_ids=[tokens[end]]))
    assert got == tokens[: end + 1]
    assert output.metadata["tokens_generated"] == end + 1
    assert output.metadata["finish_reason"] == "stop"
    _, longer, _ = await collect(
        runtime, job("Hello", stop_token_ids=[tokens[end]], min_tokens=end + 2)
    )
    assert len(longer) >= end + 2
    assert tokens[end] not in longer[: end + 1]


async def test_a_seed_is_an_answer_alone_and_in_a_batch(runtime: TransformersRuntime) -> None:
    jobs = [
        job(prompt, temperature=1.0, top_p=0.95, seed=index, frequency_penalty=0.5)
        for index, prompt in enumerate(PROMPTS)
    ]
    alone = [(await collect(runtime, one))[1] for one in jobs]
    together = [tokens for _, tokens, _ in await collect_all(runtime, jobs)]
    assert alone == together
    other = job(PROMPTS[0], temperature=1.0, top_p=0.95, seed=99, frequency_penalty=0.5)
    assert (await collect(runtime, other))[1] != alone[0]


@pytest.mark.parametrize("parameters", [{}, {"temperature": 1.0, "seed": 5, "top_p": 1.0}])
@pytest.mark.parametrize("kept", [1, 10, 24])
async def test_an_answer_goes_on_where_it_was_interrupted(
    runtime: TransformersRuntime, parameters: dict[str, Any], kept: int
) -> None:
    one = job("Hello", **parameters)
    text, tokens, whole = await collect(runtime, one)
    had = ""
    seen = 0
    async with aclosing(runtime.generate(one)) as generations:
        async for piece in generations:
            if seen + len(piece.token_ids) > kept:
                break
            had += piece.text
            seen += len(piece.token_ids)
    resume = ResumeState(token_ids=tokens[:seen], text=had)
    new_text, new_tokens, output = await collect(runtime, one, resume)
    assert tokens[:seen] + new_tokens == tokens
    assert had + new_text == text
    assert output.result == whole.result
    assert output.metadata["tokens_generated"] == whole.metadata["tokens_generated"]
    assert output.metadata["finish_reason"] == whole.metadata["finish_reason"]


async def test_one_bad_request_fails_alone(runtime: TransformersRuntime) -> None:
    async with asyncio.TaskGroup() as group:
        good = group.create_task(collect(runtime, job("Hello")))
        with pytest.raises(InvalidInputError, match="9999 is not a token"):
            await runtime.execute(job("Hello", stop_token_ids=[9999]))
    assert good.result()[2].metadata["tokens_generated"] == 24


async def test_closing_a_generation_frees_its_place(
    runtime: TransformersRuntime, until: Callable[..., Any]
) -> None:
    async with aclosing(runtime.generate(job("Hello", max_tokens=200))) as generations:
        async for _ in generations:
            break
        assert runtime.stats().active_requests == 1
    await until(lambda: runtime.stats().active_requests == 0, 0.2)


async def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(
    runtime: TransformersRuntime,
) -> None:
    with pytest.raises(InvalidInputError, match=r"the prompt has \d{3,} tokens .* at most 256"):
        await runtime.execute(job("é🙂" * 300))


async def test_the_context_bounds_the_answer(runtime: TransformersRuntime) -> None:
    output = await runtime.execute(job("Hello", max_tokens=5000, ignore_eos=True))
    metadata = output.metadata
    assert metadata["prompt_tokens"] + metadata["tokens_generated"] == 256
    assert metadata["finish_reason"] == "length"


async def test_prompt_context_and_messages_meet_in_the_template(
    runtime: TransformersRuntime,
) -> None:
    def messages(*turns: tuple[str, str]) -> JobInput:
        chat = [ChatMessage.model_validate({"role": r, "content": c}) for r, c in turns]
        return JobInput(messages=chat, parameters={"temperature": 0, "max_tokens": 8})

    prompt = JobInput(
        prompt="Hi", context="Be brief.", parameters={"temperature": 0, "max_tokens": 8}
    )
    expected = await runtime.execute(messages(("system", "Be brief."), ("user", "Hi")))
    got = await runtime.execute(prompt)
    assert got.result == expected.result
    assert got.metadata["prompt_tokens"] == expected.metadata["prompt_tokens"]
    raw = await runtime.execute(job("Hi", raw=True))
    assert raw.metadata["prompt_tokens"] < 4


async def test_without_a_template_a_prompt_is_text_and_messages_are_refused(cache: Path) -> None:
    runtime = TransformersRuntime(EngineSettings(model_cache_dir=cache))
    await runtime.load_model("tiny", "plain", {})
    try:
        output = await runtime.execute(job("Hi", max_tokens=2))
        assert output.metadata["prompt_tokens"] < 4
        with pytest.raises(InvalidInputError, match="no chat template"):
            await runtime.execute(JobInput(messages=[ChatMessage(role="user", content="Hi")]))
    finally:
        await runtime.unload_model()


async def test_rows_are_refused_with_the_reason(runtime: TransformersRuntime) -> None:
    with pytest.raises(InvalidInputError, match="batch_inference"):
        await runtime.execute(JobInput(inputs=["a", "b"]))


async def test_unloading_fails_what_is_open_and_can_be_repeated(cache: Path) -> None:
    runtime = TransformersRuntime(EngineSettings(model_cache_dir=cache))
    await runtime.load_model("tiny", "1", {})
    generations = runtime.generate(job("Hello", max_tokens=230, ignore_eos=True))
    await anext(generations)
    await runtime.unload_model()
    await runtime.unload_model()
    assert not runtime.is_model_loaded()
    with pytest.raises(NeuronError, match="unloaded"):
        _ = [piece async for piece in generations]
    with pytest.raises(NeuronError, match="no model is loaded"):
        await runtime.execute(job("Hello"))


async def test_a_model_that_cannot_be_batched_still_answers_many(
    tmp_path: Path, cache: Path
) -> None:
    import shutil

    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    folder = tmp_path / "sliding" / "1"
    shutil.copytree(cache / "tiny" / "1", folder)
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=8, initializer_range=0.3,
        max_position_embeddings=256, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    model.save_pretrained(folder)
    runtime = TransformersRuntime(EngineSettings(model_cache_dir=tmp_path))
    await runtime.load_model("sliding", "1", {})
    try:
        got = await collect_all(runtime, [job(prompt, raw=True) for prompt in PROMPTS])
    finally:
        await runtime.unload_model()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt, (_, tokens, _) in zip(PROMPTS, got, strict=True):
        ids = torch.tensor([tokenizer.encode(prompt)])
        expected = model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=0)
        assert tokens == expected[0, ids.shape[1] :].tolist()


async def test_a_checkpoint_that_lacks_a_tensor_is_not_run(tmp_path: Path, cache: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "tiny" / "1"
    shutil.copytree(cache / "tiny" / "1", folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    runtime = TransformersRuntime(EngineSettings(model_cache_dir=tmp_path))
    with pytest.raises(ArtifactCorruptError, match=r"lack the tensor model\.layers\.1\.mlp"):
        await runtime.load_model("tiny", "1", {})
