"""Embeddings and classes from vLLM, against transformers on the same weights."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from asking import collect, collect_all
from tiny_pooling import LABELS

from neuron.errors import InvalidInputError
from neuron.models.job import ChatMessage, JobInput
from neuron.runtimes.engine_client import EngineClient

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEXTS = ["the quick brown fox jumps over the lazy dog .", "hello world", "good day , bad day", "a"]


def embedded(folder: Path, text: str) -> list[float]:
    """The mean of a text's tokens, brought to length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        mean = AutoModel.from_pretrained(folder)(**inputs).last_hidden_state[0].mean(0)
    vector: list[float] = torch.nn.functional.normalize(mean, dim=0).tolist()
    return vector


def classified(folder: Path, text: str) -> dict[str, float]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        logits = AutoModelForSequenceClassification.from_pretrained(folder)(**inputs).logits[0]
    return dict(zip(LABELS.values(), logits.softmax(-1).tolist(), strict=True))


async def test_an_embedding_is_what_sentence_transformers_makes_of_its_folder(
    embedder: EngineClient, cache: Path
) -> None:
    for text in TEXTS:
        _, tokens, output = await collect(embedder, JobInput(prompt=text))
        assert output.result == pytest.approx(embedded(cache / "tiny" / "embeds", text), abs=1e-4)
        assert tokens == []
        assert output.metadata == {
            "model": "tiny:embeds",
            "runtime": "vllm",
            "task": "embed",
            "prompt_tokens": len(text.split()) + 2,
            "dimensions": 128,
        }
        assert output.metrics["latency_ms"] > 0


async def test_a_list_of_texts_is_a_list_of_embeddings_in_its_order(
    embedder: EngineClient,
) -> None:
    inputs = [f"{text} {'hello ' * (index % 20)}" for index, text in enumerate(TEXTS * 10)]
    _, _, output = await collect(embedder, JobInput(inputs=inputs))
    single = await collect_all(embedder, [JobInput(prompt=text) for text in inputs])
    assert len(output.result) == len(inputs)
    for vector, (_, _, alone) in zip(output.result, single, strict=True):
        assert vector == pytest.approx(alone.result, abs=1e-4)
    counts = [alone.metadata["prompt_tokens"] for _, _, alone in single]
    assert output.metadata["prompt_tokens"] == sum(counts)


async def test_a_text_gets_its_labels_best_first(classifier: EngineClient, cache: Path) -> None:
    for text in TEXTS:
        _, _, output = await collect(classifier, JobInput(prompt=text))
        expected = classified(cache / "tiny" / "classifies", text)
        got = {entry["label"]: entry["score"] for entry in output.result}
        assert got == pytest.approx(expected, abs=1e-4)
        assert list(got) == sorted(expected, key=lambda label: -expected[label])
        assert output.metadata["task"] == "classify"
        assert "dimensions" not in output.metadata


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"messages": [ChatMessage(role="user", content="Hi")]}, "not messages"),
        (
            {"prompt": "a", "parameters": {"temperature": 0, "logprobs": 1, "stream": True}},
            "leave logprobs, temperature out",
        ),
        ({"prompt": "a", "parameters": {"adapter": "lora:1"}}, "leave adapter out"),
        ({"prompt": "a", "context": "b"}, "reads no context"),
        ({"prompt": "a " * 63}, "has 65 tokens and tiny:embeds reads at most 64"),
        ({"inputs": ["a", {"prompt": "b"}]}, "inputs: row 1 is no text"),
        ({"inputs": ["a", "b", ""]}, "inputs: row 2 is empty"),
        ({"inputs": ["a", "a " * 63]}, "inputs: row 1 has 65 tokens"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    embedder: EngineClient, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        await collect(embedder, JobInput(**asked))
    assert (await collect(embedder, JobInput(prompt="a " * 62)))[2].metadata["prompt_tokens"] == 64


async def test_a_cancelled_list_is_dropped_and_others_go_on(
    embedder: EngineClient, until: Any
) -> None:
    many = JobInput(inputs=["hello " * 60] * 2000)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(collect(embedder, many))
        embedder.ping()
        await until(lambda: embedder.active_requests > 0)
        task.cancel()
    async with asyncio.timeout(5):
        await collect(embedder, JobInput(prompt="hello"))


async def test_a_model_is_not_loaded_for_what_it_cannot_do(make_engine: Any) -> None:
    with pytest.raises(InvalidInputError, match="runner generate"):
        await make_engine("classifies", task="generate").start(180)
