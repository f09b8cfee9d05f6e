"""Embeddings and classes against a plain computation of each text alone."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pooling import build_tiny_classifier, build_tiny_embedder

from neuron.errors import ArtifactCorruptError, InvalidInputError
from neuron.models.job import ChatMessage, JobInput, JobOutput
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.transformers_runtime import TransformersRuntime

WORDS = ["the", "quick", "brown", "fox", "jumps", "lazy", "hello", "world", "good", "bad", "day"]


def text(words: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


TEXTS = [text(size, seed) for seed, size in enumerate([1, 9, 40, 3, 9, 22, 1, 60, 17, 5])]

Load = Callable[..., Awaitable[TransformersRuntime]]


@pytest.fixture
async def load(tmp_path: Path) -> AsyncIterator[Load]:
    """Load a folder that was built at tmp_path/tiny/1."""
    loaded: list[TransformersRuntime] = []

    async def load_one(**config: Any) -> TransformersRuntime:
        runtime = TransformersRuntime(EngineSettings(model_cache_dir=tmp_path, max_batch_size=8))
        loaded.append(runtime)
        await runtime.load_model("tiny", "1", config)
        return runtime

    yield load_one
    for runtime in loaded:
        await runtime.unload_model()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tiny" / "1"


def states(folder: Path, one: str) -> torch.Tensor:
    """The plain model's last states of one text: [tokens, size]."""
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(one, return_tensors="pt")
    with torch.inference_mode():
        found: torch.Tensor = AutoModel.from_pretrained(folder)(
            input_ids=inputs["input_ids"]
        ).last_hidden_state[0]
    return found


def logits(folder: Path, one: str) -> torch.Tensor:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(one, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        found: torch.Tensor = AutoModelForSequenceClassification.from_pretrained(folder)(
            input_ids=ids
        ).logits[0]
    return found


def set_pooling(folder: Path, mode: str, *, normalize: bool) -> None:
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules if normalize else modules[:2]))


async def embeddings(runtime: TransformersRuntime, texts: list[str]) -> list[list[float]]:
    """Of texts that are asked one by one, all at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(runtime.execute(JobInput(prompt=one))) for one in texts]
    return [task.result().result for task in tasks]


def close(got: list[float], expected: torch.Tensor) -> bool:
    return bool(torch.allclose(torch.tensor(got), expected, atol=1e-5))


POOLS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean_tokens": lambda rows: rows.mean(dim=0),
    "cls_token": lambda rows: rows[0],
    "lasttoken": lambda rows: rows[-1],
    "max_tokens": lambda rows: rows.max(dim=0).values,
}


@pytest.mark.parametrize("mode", list(POOLS))
@pytest.mark.parametrize("normalize", [True, False])
async def test_an_embedding_is_what_the_folder_says_alone_and_in_company(
    folder: Path, load: Load, mode: str, normalize: bool
) -> None:
    build_tiny_embedder(folder)
    set_pooling(folder, mode, normalize=normalize)
    runtime = await load()
    expected = [POOLS[mode](states(folder, one)) for one in TEXTS]
    if normalize:
        expected = [vector / vector.norm() for vector in expected]
    alone = [(await embeddings(runtime, [one]))[0] for one in TEXTS]
    before = runtime.stats().steps
    together = await embeddings(runtime, TEXTS)
    listed = (await runtime.execute(JobInput(inputs=list(TEXTS)))).result
    assert runtime.stats().steps - before < len(TEXTS) + 1, "texts of both shared passes"
    for index, vector in enumerate(expected):
        assert close(alone[index], vector)
        assert close(together[index], vector)
        assert close(listed[index], vector)


async def test_texts_that_wait_share_passes(folder: Path, load: Load) -> None:
    build_tiny_embedder(folder)
    runtime = await load()
    same = [text(10, seed) for seed in range(24)]
    await runtime.execute(JobInput(inputs=list(same)))
    assert runtime.stats().steps == 3
    await runtime.execute(JobInput(inputs=[text(1), text(60), text(1), text(60)]))
    assert runtime.stats().steps == 5, "short and long texts have passes of their own"


async def test_the_output_tells_what_it_promises(folder: Path, load: Load) -> None:
    build_tiny_embedder(folder)
    runtime = await load()
    output = await runtime.execute(JobInput(prompt="hello world"))
    assert output.metadata == {
        "model": "tiny:1", "runtime": "transformers", "task": "embed",
        "prompt_tokens": 4, "dimensions": 128,
    }  # fmt: skip
    assert output.metrics["latency_ms"] >= output.metrics["compute_ms"] > 0
    several = await runtime.execute(JobInput(inputs=["hello", "good day"]))
    assert several.metadata["prompt_tokens"] == 7
    streamed = JobInput(prompt="hello world", parameters={"stream": True})
    pieces = [piece async for piece in runtime.execute_stream(streamed)]
    assert json.loads("".join(pieces)) == output.result


async def test_a_decoder_embeds_too(folder: Path, load: Load, cache: Path) -> None:
    shutil.copytree(cache / "tiny" / "1", folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "lasttoken"}))
    runtime = await load()
    for one, vector in zip(TEXTS, await embeddings(runtime, TEXTS), strict=True):
        assert close(vector, states(folder, one)[-1])


async def test_without_files_of_its_own_the_mean_is_taken(folder: Path, load: Load) -> None:
    build_tiny_embedder(folder)
    (folder / "modules.json").unlink()
    shutil.rmtree(folder / "1_Pooling")
    runtime = await load()
    (vector,) = await embeddings(runtime, ["hello world"])
    assert close(vector, states(folder, "hello world").mean(dim=0))


async def test_a_default_prompt_stands_before_every_text(folder: Path, load: Load) -> None:
    build_tiny_embedder(folder)
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps(
            {"prompts": {"query": "good day ", "other": "x"}, "default_prompt_name": "query"}
        )
    )
    runtime = await load()
    expected = states(folder, "good day hello").mean(dim=0)
    (vector,) = await embeddings(runtime, ["hello"])
    assert close(vector, expected / expected.norm())


@pytest.mark.parametrize(
    ("config", "scores"),
    [
        ({}, lambda row: row.softmax(dim=-1)),
        ({"problem_type": "multi_label_classification"}, torch.sigmoid),
        ({"problem_type": "regression"}, lambda row: row),
    ],
)
async def test_classes_are_scored_best_first_alone_and_in_company(
    folder: Path,
    load: Load,
    config: dict[str, Any],
    scores: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    build_tiny_classifier(folder, **config)
    runtime = await load()
    listed = await runtime.execute(JobInput(inputs=list(TEXTS)))
    assert runtime.stats().steps < len(TEXTS)
    assert listed.metadata["task"] == "classify"
    assert "dimensions" not in listed.metadata
    alone = [(await runtime.execute(JobInput(prompt=one))).result for one in TEXTS]
    for one, *answers in zip(TEXTS, listed.result, alone, strict=True):
        expected = dict(
            zip(["sad", "glad", "neither"], scores(logits(folder, one)).tolist(), strict=True)
        )
        for answer in answers:
            told = {entry["label"]: entry["score"] for entry in answer}
            assert told == pytest.approx(expected, rel=1e-4, abs=1e-5)
            assert [entry["score"] for entry in answer] == sorted(told.values(), reverse=True)


async def test_a_single_output_is_a_probability_of_its_own(folder: Path, load: Load) -> None:
    build_tiny_classifier(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "relevant"}, "label2id": {"relevant": 0}}
    from transformers import AutoModelForSequenceClassification, BertConfig

    AutoModelForSequenceClassification.from_config(BertConfig.from_dict(config)).save_pretrained(
        folder
    )
    runtime = await load()
    (entry,) = (await runtime.execute(JobInput(prompt="hello"))).result
    assert entry["label"] == "relevant"
    assert entry["score"] == pytest.approx(logits(folder, "hello").sigmoid().item(), abs=1e-5)


@pytest.mark.parametrize("padded", [True, False])
async def test_a_decoder_that_classifies_reads_each_text_to_its_end(
    folder: Path, load: Load, cache: Path, padded: bool
) -> None:
    from transformers import AutoModelForSequenceClassification

    shutil.copytree(cache / "tiny" / "1", folder)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    model.config.pad_token_id = 0 if padded else None
    model.save_pretrained(folder)
    if not padded:
        names = json.loads((folder / "tokenizer_config.json").read_text())
        del names["pad_token"]
        (folder / "tokenizer_config.json").write_text(json.dumps(names))
    runtime = await load()
    listed = await runtime.execute(JobInput(inputs=list(TEXTS)))
    for one, answer in zip(TEXTS, listed.result, strict=True):
        expected = logits(folder, one).softmax(dim=-1)
        assert [entry["score"] for entry in answer] == pytest.approx(
            sorted(expected.tolist(), reverse=True), abs=1e-5
        )
    assert (runtime.stats().steps == len(TEXTS)) is not padded


async def test_the_task_may_be_named(folder: Path, load: Load, cache: Path) -> None:
    shutil.copytree(cache / "tiny" / "1", folder)
    runtime = await load(task="embed")
    (vector,) = await embeddings(runtime, ["hello"])
    assert close(vector, states(folder, "hello").mean(dim=0))
    with pytest.raises(ArtifactCorruptError, match=r"lack the tensor score\.weight"):
        await load(task="classify")


@pytest.mark.parametrize(
    ("job_input", "message"),
    [
        (JobInput(messages=[ChatMessage(role="user", content="Hi")]), "cannot chat"),
        (JobInput(prompt="Hi", context="Be brief."), "context: .* reads none"),
        (JobInput(prompt="Hi", parameters={"temperature": 0}), "temperature is for models that"),
        (JobInput(prompt="Hi", parameters={"n": 2}), "n is for models that generate"),
        (JobInput(inputs=["good", 7]), r"inputs\[1\]: expected a text, got int"),
        (JobInput(inputs=["good", text(70)]), r"inputs\[1\]: the text has 72 tokens .* most 64"),
    ],
)
async def test_what_such_a_model_cannot_do_is_refused(
    folder: Path, load: Load, job_input: JobInput, message: str
) -> None:
    build_tiny_embedder(folder)
    runtime = await load()
    with pytest.raises(InvalidInputError, match=message):
        await runtime.execute(job_input)
    assert runtime.is_model_loaded()


async def test_roberta_reads_fewer_tokens_than_it_has_positions(folder: Path, load: Load) -> None:
    from transformers import RobertaConfig, RobertaModel

    build_tiny_embedder(folder)
    (folder / "sentence_bert_config.json").unlink()
    torch.manual_seed(0)
    RobertaModel(
        RobertaConfig(
            vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=34, pad_token_id=1,
        )
    ).save_pretrained(folder)  # fmt: skip
    runtime = await load()
    texts = [text(30), text(3)]
    for one, vector in zip(texts, await embeddings(runtime, texts), strict=True):
        expected = states(folder, one).mean(dim=0)
        assert close(vector, expected / expected.norm())
    with pytest.raises(InvalidInputError, match=r"33 tokens .* at most 32"):
        await runtime.execute(JobInput(prompt=text(31)))


async def test_closing_a_request_drops_what_waits(
    folder: Path, load: Load, until: Callable[..., Any]
) -> None:
    build_tiny_embedder(folder)
    runtime = await load()
    many = JobInput(inputs=[text(40, seed) for seed in range(2000)])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runtime.execute(many))
        await until(lambda: runtime.stats().steps > 0)
        task.cancel()
    await until(lambda: runtime.stats().active_requests == 0, 0.2)
    assert runtime.stats().steps < 250
    output: JobOutput = await runtime.execute(JobInput(prompt="hello"))
    assert output.metadata["dimensions"] == 128
