"""The batcher and the call, with models made of plain functions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from neuron.errors import EngineCrashedError, InvalidInputError, OutOfMemoryError
from neuron.runtimes.pytorch_engine.batcher import RowBatcher, RowRequest
from neuron.runtimes.pytorch_engine.calling import ModelCall
from neuron.runtimes.pytorch_engine.loading import LoadedModel
from neuron.runtimes.pytorch_engine.signature import Signature

SECONDS = 10


def call_of(function: Callable[..., Any], *shape: int, batch: int = -1, **more: Any) -> ModelCall:
    signature = Signature.model_validate(
        {
            "inputs": [{"name": "x", "dtype": "float32", "shape": [batch, *shape], **more}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [batch]}],
        }
    )
    device = torch.device("cpu")
    return ModelCall(
        LoadedModel("m:1", "safetensors", function, ["x"], signature, device, None, use_amp=False)
    )


def row(*values: float) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor(values, dtype=torch.float32)}


class Ends:
    """Where requests go when they have ended."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ended: list[RowRequest] = []

    def __call__(self, requests: list[RowRequest]) -> None:
        with self._changed:
            self._ended += requests
            self._changed.notify_all()

    def wait(self, *requests: RowRequest) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: set(requests) <= set(self._ended), SECONDS)


@contextmanager
def running(call: ModelCall, max_rows: int) -> Iterator[tuple[RowBatcher, Ends]]:
    ends = Ends()
    batcher = RowBatcher(call, ends, "m:1", max_rows)
    batcher.start()
    try:
        yield batcher, ends
    finally:
        batcher.stop()


class Gate:
    """A model that waits to be let through, and remembers the batches it saw."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.batches: list[list[float]] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(x[:, 0].tolist())
        self.entered.release()
        assert self.open.wait(SECONDS)
        return x.sum(1)


def test_requests_share_calls_in_turns() -> None:
    gate = Gate()
    with running(call_of(gate, -1), 4) as (batcher, ends):
        first = RowRequest([row(0)])
        batcher.submit(first)
        assert gate.entered.acquire(timeout=SECONDS)
        many = RowRequest([row(value) for value in (1, 2, 3, 4, 5)])
        late = RowRequest([row(10)])
        batcher.submit(many)
        batcher.submit(late)
        assert batcher.active == 3
        gate.open.set()
        ends.wait(first, many, late)
    assert gate.batches == [[0], [1, 10, 2, 3], [4, 5]]
    assert [float(one["y"]) for one in many.answers if one] == [1, 2, 3, 4, 5]
    assert (many.largest_batch, batcher.active, batcher.steps) == (4, 0, 3)


def test_rows_of_other_shapes_get_calls_of_their_own() -> None:
    gate = Gate()
    gate.open.set()
    with running(call_of(gate, -1), 8) as (batcher, ends):
        request = RowRequest([row(1), row(2, 2), row(3), row(4, 4)])
        batcher.submit(request)
        ends.wait(request)
    assert [float(one["y"]) for one in request.answers if one] == [1, 4, 3, 8]


def test_padding_lets_other_shapes_share_a_call() -> None:
    gate = Gate()
    gate.open.set()
    with running(call_of(gate, -1, pad=0), 8) as (batcher, ends):
        request = RowRequest([row(1), row(2, 2), row(3, 3, 3)])
        batcher.submit(request)
        ends.wait(request)
    assert gate.batches == [[1, 2, 3]]
    assert [float(one["y"]) for one in request.answers if one] == [1, 4, 9]


def test_a_fixed_batch_is_filled_up() -> None:
    call = call_of(lambda x: x.sum(1), 2, batch=4)
    assert [float(one["y"]) for one in call([row(1, 1), row(2, 2)])] == [2, 4]


def test_the_guilty_row_fails_alone() -> None:
    def picky(x: torch.Tensor) -> torch.Tensor:
        if bool((x == 13).any()):
            raise ValueError("thirteen brings bad luck\nand more")
        return x.sum(1)

    with running(call_of(picky, 1), 8) as (batcher, ends):
        good, bad = RowRequest([row(1), row(2)]), RowRequest([row(3), row(13)])
        batcher.submit(good)
        batcher.submit(bad)
        ends.wait(good, bad)
    assert good.error is None
    assert [float(one["y"]) for one in good.answers if one] == [1, 2]
    assert isinstance(bad.error, InvalidInputError)
    assert bad.error.message == "m:1 cannot compute row 1: ValueError: thirteen brings bad luck"


def test_too_large_a_batch_is_halved_and_stays_so() -> None:
    sizes: list[int] = []

    def small_memory(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("no room")
        return x.sum(1)

    with running(call_of(small_memory, 1), 8) as (batcher, ends):
        request = RowRequest([row(value) for value in range(8)])
        batcher.submit(request)
        ends.wait(request)
        again = RowRequest([row(value) for value in range(4)])
        batcher.submit(again)
        ends.wait(again)
    assert request.error is None
    assert again.error is None
    assert sizes == [8, 4, 2, 2, 4, 2, 2, 2, 2]


def test_no_room_for_one_row_is_told() -> None:
    def no_memory(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    with running(call_of(no_memory, 1), 2) as (batcher, ends):
        request = RowRequest([row(1)])
        batcher.submit(request)
        ends.wait(request)
    assert isinstance(request.error, OutOfMemoryError)


def test_a_lost_device_fails_everything() -> None:
    def lost(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with running(call_of(lost, 1), 1) as (batcher, ends):
        first, second = RowRequest([row(1)]), RowRequest([row(2)])
        batcher.submit(first)
        ends.wait(first)
        assert batcher.is_broken
        with pytest.raises(EngineCrashedError, match="illegal memory access"):
            batcher.submit(second)
    assert isinstance(first.error, EngineCrashedError)


def test_a_cancelled_request_is_computed_no_more() -> None:
    gate = Gate()
    with running(call_of(gate, 1), 1) as (batcher, ends):
        long, other = RowRequest([row(1), row(2), row(3)]), RowRequest([row(9)])
        batcher.submit(long)
        assert gate.entered.acquire(timeout=SECONDS)
        batcher.submit(other)
        batcher.cancel(long)
        assert batcher.active == 1
        gate.open.set()
        ends.wait(other)
    assert gate.batches == [[1], [9]]


def test_stopping_fails_those_that_wait() -> None:
    gate = Gate()
    with running(call_of(gate, 1), 1) as (batcher, ends):
        request = RowRequest([row(1), row(2)])
        batcher.submit(request)
        assert gate.entered.acquire(timeout=SECONDS)
        gate.open.set()
        stopper = threading.Thread(target=batcher.stop)
        stopper.start()
        ends.wait(request)
        stopper.join(SECONDS)
    with pytest.raises(EngineCrashedError):
        batcher.submit(RowRequest([row(1)]))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: x, r"has the shape \[1, 2\] for a batch of 1"),
        (lambda x: x.sum(), r"has the shape \[\]"),
        (lambda x: x.sum(1).long(), "has the dtype int64"),
        (lambda x: (x, x), "answers with 2 tensors"),
        (lambda x: {"z": x}, "is not among the model's answers"),
        (lambda x: None, "is not among the model's answers"),
    ],
)
def test_an_answer_unlike_the_signature_is_named(answer: Callable[..., Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        call_of(answer, 2)([row(1, 2)])


@pytest.mark.parametrize("answer", [lambda x: {"y": x[:, 0]}, lambda x: [x[:, 0]]])
def test_answers_in_every_wrapping(answer: Callable[..., Any]) -> None:
    assert float(call_of(answer, 2)([row(1, 2)])[0]["y"]) == 1
