"""The Transformers runtime's batching against generate(), one by one and as a padded batch.

Thirty-two prompts of mixed lengths want answers of mixed lengths. Ours runs as users get it: an
engine process, asked over its socket. generate() runs in this process, with as many threads. Only
useful tokens count, those that a prompt asked for: a padded batch runs until its longest answer is
done. The three are measured in turns, and medians are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack import running_stack

from neuron.models.job import JobInput
from neuron.models.runtime import RuntimeType
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.engine_client import EngineClient

from .report import Row
from .system import MODEL

PROMPTS = 32
REPEATS = 3
MIN_PROMPT_WORDS, MAX_PROMPT_WORDS = 5, 150
MIN_TOKENS, MAX_TOKENS = 16, 128
TARGET_ONE, TARGET_PADDED = 4.0, 0.95
_LOAD_SECONDS = 120.0
_WORDS = ("the", "river", "runs", "past", "an", "old", "mill", "where", "people", "count", "stars")


@dataclass(frozen=True)
class Task:
    """A prompt, and how many tokens it wants."""

    prompt: str
    tokens: int


def run() -> list[Row]:
    """Return the three paces and the two ratios."""
    return measure(plan(PROMPTS), REPEATS)


def plan(count: int) -> list[Task]:
    """Always the same prompts; lengths of both kinds spread evenly, in any order."""
    dice = random.Random(7)
    tokens = [
        MIN_TOKENS + (MAX_TOKENS - MIN_TOKENS) * index // (count - 1) for index in range(count)
    ]
    dice.shuffle(tokens)
    sizes = [dice.randint(MIN_PROMPT_WORDS, MAX_PROMPT_WORDS) for _ in range(count)]
    prompts = [" ".join(dice.choices(_WORDS, k=size)) for size in sizes]
    return [Task(prompt, wanted) for prompt, wanted in zip(prompts, tokens, strict=True)]


def measure(tasks: list[Task], repeats: int) -> list[Row]:
    """Run all three `repeats` times, in turns."""
    with model_cache() as cache:
        reference = Reference(cache.joinpath(*MODEL.split(":")))
        return asyncio.run(_measure(tasks, repeats, cache, reference))


async def _measure(tasks: list[Task], repeats: int, cache: Path, reference: Reference) -> list[Row]:
    settings = EngineSettings(model_cache_dir=cache, max_batch_size=len(tasks))
    config = {"torch_dtype": "float32", "device": "cpu"}
    family, version = MODEL.split(":")
    engine = EngineClient(RuntimeType.TRANSFORMERS, family, version, config, settings)
    await engine.start(_LOAD_SECONDS)
    seconds: dict[str, list[float]] = {"ours": [], "padded": [], "single": []}
    try:
        await ours(engine, tasks[:4])  # nothing is cold
        reference.padded(tasks[:2])
        for _ in range(repeats):
            seconds["ours"].append(await ours(engine, tasks))
            seconds["padded"].append(await asyncio.to_thread(reference.padded, tasks))
            seconds["single"].append(await asyncio.to_thread(reference.one_by_one, tasks))
    finally:
        await engine.stop()
    useful = sum(task.tokens for task in tasks)
    paces = {name: useful / statistics.median(each) for name, each in seconds.items()}
    return rows(paces, f"{useful} tokens, {reference.threads} threads")


def rows(paces: dict[str, float], note: str) -> list[Row]:
    """The figures with their targets."""
    one_by_one, padded = paces["ours"] / paces["single"], paces["ours"] / paces["padded"]
    return [
        Row("ours", paces["ours"], "t/s", note),
        Row("generate(), one by one", paces["single"], "t/s"),
        Row("generate(), one padded batch", paces["padded"], "t/s", "useful tokens only"),
        Row("against one by one", one_by_one, "x", f"at least {TARGET_ONE}", TARGET_ONE),
        Row("against a padded batch", padded, "x", f"at least {TARGET_PADDED}", TARGET_PADDED),
    ]


async def ours(engine: EngineClient, tasks: list[Task]) -> float:
    """The seconds that the engine takes for all tasks, asked at once."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(answer(engine, task))
    return time.monotonic() - began


async def answer(engine: EngineClient, task: Task) -> None:
    """Ask for exactly as many tokens as the task wants."""
    parameters = {
        "max_tokens": task.tokens, "temperature": 0, "ignore_eos": True, "raw": True,
    }  # fmt: skip
    tokens = 0
    generations = engine.generate(JobInput(prompt=task.prompt, parameters=parameters))
    async with aclosing(generations):
        async for generation in generations:
            tokens += len(generation.token_ids)
    assert tokens == task.tokens


class Reference:
    """The plain model, and generate()."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from neuron.runtimes.transformers_engine.hardware import respect_cpu_quota

        respect_cpu_quota()  # as the engine does
        self.threads = torch.get_num_threads()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._model.generation_config.eos_token_id = None  # every answer has its full length

    def padded(self, tasks: list[Task]) -> float:
        """The seconds for one batch, which runs until the longest answer is done."""
        began = time.monotonic()
        self._generate([task.prompt for task in tasks], max(task.tokens for task in tasks))
        return time.monotonic() - began

    def one_by_one(self, tasks: list[Task]) -> float:
        """The seconds for one call after another."""
        began = time.monotonic()
        for task in tasks:
            self._generate([task.prompt], task.tokens)
        return time.monotonic() - began

    def _generate(self, prompts: list[str], tokens: int) -> None:
        inputs: Any = self._tokenizer(prompts, return_tensors="pt", padding=True)
        width = inputs["input_ids"].shape[1]
        answers = self._model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
            max_new_tokens=tokens, do_sample=False, pad_token_id=self._tokenizer.pad_token_id,
        )  # fmt: skip
        assert answers.shape[1] == width + tokens


@contextlib.contextmanager
def model_cache() -> Iterator[Path]:
    """Yield a worker's model cache that holds MODEL, as `mnemos models pull` publishes it."""
    with tempfile.TemporaryDirectory() as folder, running_stack(Path(folder)) as stack:
        platform = stack.start_platform()
        stack.mnemos("models", "pull", MODEL, seconds=600)
        platform.kill()
        (config,) = (stack.data_dir / "engram").rglob("config.json")
        cache = Path(folder) / "models"
        family, version = MODEL.split(":")
        (cache / family).mkdir(parents=True)
        (cache / family / version).symlink_to(config.parent)
        yield cache
