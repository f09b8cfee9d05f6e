"""The pooling batcher's turns and failures, and what sentence-transformers' files mean."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from neuron.errors import (
    ArtifactCorruptError,
    EngineCrashedError,
    InvalidInputError,
    NeuronError,
    OutOfMemoryError,
)
from neuron.runtimes.transformers_engine.pooling.batcher import TextBatcher, TextRequest
from neuron.runtimes.transformers_engine.pooling.recipe import Recipe, read_recipe
from neuron.runtimes.transformers_engine.task import find_task


class Counter:
    """Answers a text's length; fails on demand."""

    def __init__(self) -> None:
        self.passes: list[list[int]] = []
        self.fail: Callable[[list[int]], BaseException | None] = lambda _: None

    def answer(self, texts: Sequence[Sequence[int]]) -> list[int]:
        sizes = [len(text) for text in texts]
        if (error := self.fail(sizes)) is not None:
            raise error
        self.passes.append(sizes)
        return sizes


class Ended:
    """Requests that have ended; may be waited for."""

    def __init__(self) -> None:
        self._events: dict[TextRequest, threading.Event] = {}

    def request(self, *sizes: int) -> TextRequest:
        made = TextRequest([[1] * size for size in sizes])
        self._events[made] = threading.Event()
        return made

    def deliver(self, requests: list[TextRequest]) -> None:
        for request in requests:
            self._events[request].set()

    def wait(self, *requests: TextRequest) -> None:
        for request in requests:
            assert self._events[request].wait(10), "waited in vain"


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def ended() -> Ended:
    return Ended()


@pytest.fixture
def batcher(counter: Counter, ended: Ended) -> Iterator[TextBatcher]:
    made = TextBatcher(counter.answer, ended.deliver, "model:1", max_items=4)
    yield made
    made.stop()


def test_every_request_has_its_turn_and_like_lengths_go_together(
    batcher: TextBatcher, counter: Counter, ended: Ended
) -> None:
    large, small = ended.request(*[20] * 12, 300), ended.request(310)
    batcher.submit(large)
    batcher.submit(small)
    batcher.start()
    ended.wait(large, small)
    assert counter.passes == [[20] * 4, [310, 300], [20] * 4, [20] * 4]
    assert large.answers == [*[20] * 12, 300]
    assert small.answers == [310]
    assert batcher.active == 0


def test_a_text_that_fails_fails_its_request_alone(
    batcher: TextBatcher, counter: Counter, ended: Ended
) -> None:
    counter.fail = lambda sizes: ValueError("odd") if 13 in sizes else None
    good, bad = ended.request(12, 12), ended.request(13)
    batcher.submit(good)
    batcher.submit(bad)
    batcher.start()
    ended.wait(good, bad)
    assert good.error is None
    assert good.answers == [12, 12]
    assert isinstance(bad.error, NeuronError)
    assert "model:1 failed: ValueError: odd" in bad.error.message


def test_out_of_memory_makes_passes_smaller(
    batcher: TextBatcher, counter: Counter, ended: Ended
) -> None:
    counter.fail = lambda sizes: torch.OutOfMemoryError("full") if sum(sizes) > 25 else None
    many, large = ended.request(*[10] * 8), ended.request(26)
    batcher.submit(many)
    batcher.start()
    ended.wait(many)
    batcher.submit(large)
    ended.wait(large)
    assert many.answers == [10] * 8
    assert counter.passes == [[10, 10]] * 4
    assert isinstance(large.error, OutOfMemoryError)


def test_a_lost_device_fails_everything(
    batcher: TextBatcher, counter: Counter, ended: Ended
) -> None:
    counter.fail = lambda _: RuntimeError("CUDA error: an illegal memory access")
    first, second = ended.request(1), ended.request(500)
    batcher.submit(first)
    batcher.submit(second)
    batcher.start()
    ended.wait(first, second)
    assert isinstance(first.error, EngineCrashedError)
    assert isinstance(second.error, EngineCrashedError)
    assert batcher.is_broken
    with pytest.raises(EngineCrashedError, match="illegal memory access"):
        batcher.submit(ended.request(1))


def submit_for_ever(batcher: TextBatcher, ended: Ended) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        batcher.submit(ended.request(1))


def test_what_is_open_when_it_stops_fails(
    batcher: TextBatcher, counter: Counter, ended: Ended
) -> None:
    inside, leave = threading.Event(), threading.Event()

    def wait(_: list[int]) -> None:
        inside.set()
        assert leave.wait(10)

    counter.fail = wait
    request = ended.request(1, 500)
    batcher.submit(request)
    batcher.start()
    assert inside.wait(10)
    stopping = threading.Thread(target=batcher.stop)
    stopping.start()
    with pytest.raises(EngineCrashedError, match="is being unloaded"):
        submit_for_ever(batcher, ended)
    leave.set()
    stopping.join(10)
    ended.wait(request)
    assert isinstance(request.error, EngineCrashedError)


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def modules(*kinds: str) -> list[dict[str, Any]]:
    paths = {"Transformer": ""}
    return [
        {"path": paths.get(kind, f"{at}_{kind}"), "type": f"sentence_transformers.models.{kind}"}
        for at, kind in enumerate(kinds)
    ]


def test_the_recipe_is_read_from_the_modules(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        modules=modules("Transformer", "Pooling", "Normalize"),
        **{"1_Pooling__config": {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": False}},
        sentence_bert_config={"max_seq_length": 77},
    )
    assert read_recipe(folder, "m:1") == Recipe("cls", normalize=True, max_tokens=77)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"modules": modules("Transformer", "Pooling", "Dense")}, "has a module Dense"),
        (
            {"1_Pooling__config": {"pooling_mode_mean_sqrt_len_tokens": True}},
            "pools by mean_sqrt_len_tokens",
        ),
        (
            {"1_Pooling__config": {"pooling_mode_cls_token": 1, "pooling_mode_max_tokens": 1}},
            "pools by cls_token and max_tokens",
        ),
        (
            {"modules": [{"path": "0_BERT", "type": "sentence_transformers.models.Transformer"}]},
            "has its transformer in 0_BERT",
        ),
    ],
)
def test_a_step_that_is_not_offered_is_named(
    tmp_path: Path, files: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_recipe(write(tmp_path, **files), "m:1")


@pytest.mark.parametrize(
    ("files", "task"),
    [
        ({"config": {"architectures": ["LlamaForCausalLM"]}}, "generate"),
        ({"config": {"architectures": ["GPT2LMHeadModel"]}}, "generate"),
        ({"config": {"architectures": ["BertModel"]}}, "embed"),
        ({"config": {"architectures": ["BertForSequenceClassification"]}}, "classify"),
        ({"config": {"architectures": ["Qwen3ForCausalLM"]}, "modules": []}, "embed"),
        (
            {"config": {"architectures": ["BertForSequenceClassification"]}, "modules": []},
            "classify",
        ),
        ({"config": {"architectures": ["BertForMaskedLM"]}, "1_Pooling__config": {}}, "embed"),
        ({"config": {}}, "generate"),
        ({}, "generate"),
    ],
)
def test_the_folder_says_what_the_model_is_for(
    tmp_path: Path, files: dict[str, Any], task: str
) -> None:
    assert find_task(write(tmp_path, **files), "m:1") == task


def test_a_broken_config_is_a_broken_artifact(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ArtifactCorruptError, match=r"files of m:1 cannot be read: config\.json"):
        find_task(tmp_path, "m:1")
