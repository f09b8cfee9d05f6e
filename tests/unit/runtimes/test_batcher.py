"""What the batcher does when a step fails; a small decoder of our own fails on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from neuron.errors import EngineCrashedError, NeuronError, OutOfMemoryError
from neuron.models.job import JobOutput
from neuron.models.sampling import SamplingParameters
from neuron.runtimes.transformers_engine.batcher import Batcher
from neuron.runtimes.transformers_engine.row import Piece, Row


class Letters:
    def decode(self, token_ids: Sequence[int], /) -> str:
        return "".join(chr(97 + token) for token in token_ids)


class CountingDecoder:
    """Every row's next token is the one after its last, modulo 26."""

    max_rows = 4
    can_prefill_in_chunks = True

    def __init__(self) -> None:
        self.fail: Callable[[int], BaseException | None] = lambda rows: None
        self.widest = 0

    def prefill(self, first_row: int, start: int, chunks: Sequence[Sequence[int]]) -> torch.Tensor:
        return self._after([chunk[-1] for chunk in chunks], first_row + len(chunks))

    def decode(self, tokens: Sequence[int]) -> torch.Tensor:
        return self._after(tokens, len(tokens))

    def _after(self, tokens: Sequence[int], rows: int) -> torch.Tensor:
        if (error := self.fail(rows)) is not None:
            raise error
        self.widest = max(self.widest, rows)
        wanted = torch.tensor([(token + 1) % 26 for token in tokens])
        return torch.nn.functional.one_hot(wanted, 26).float()

    def move(self, source: int, target: int) -> None:
        pass

    def truncate(self, rows: int) -> None:
        pass

    def memory_needed(self, rows: int, columns: int) -> int:
        return rows * columns

    def release(self) -> None:
        pass


class Endings:
    """How each row ended; rows may be waited for."""

    def __init__(self) -> None:
        self._by_row: dict[Row, JobOutput | NeuronError] = {}
        self._changed = threading.Condition()

    def deliver(self, pieces: list[tuple[Row, Piece]]) -> None:
        with self._changed:
            for row, piece in pieces:
                if piece.ending is not None:
                    self._by_row[row] = piece.ending
            self._changed.notify_all()

    def of(self, *rows: Row) -> list[JobOutput | NeuronError]:
        deadline = time.monotonic() + 10
        with self._changed:
            while not all(row in self._by_row for row in rows):
                assert self._changed.wait(deadline - time.monotonic()), "waited in vain"
            return [self._by_row[row] for row in rows]


def row(first: int, max_tokens: int = 5) -> Row:
    parameters = SamplingParameters(temperature=0)
    return Row(
        [first], parameters, max_tokens=max_tokens, end_tokens=(), seed=1, tokenizer=Letters()
    )


def result(ending: JobOutput | NeuronError) -> str:
    assert isinstance(ending, JobOutput), ending
    return str(ending.result)


@pytest.fixture
def decoder() -> CountingDecoder:
    return CountingDecoder()


@pytest.fixture
def endings() -> Endings:
    return Endings()


@pytest.fixture
def batcher(decoder: CountingDecoder, endings: Endings) -> Iterator[Batcher]:
    made = Batcher(decoder, endings.deliver, "model:1", memory_budget=10_000)
    yield made
    made.stop()


def submit(batcher: Batcher, rows: Sequence[Row]) -> None:
    for one in rows:
        batcher.submit(one)
    batcher.start()


def test_more_rows_than_places_all_end_in_turn(
    batcher: Batcher, decoder: CountingDecoder, endings: Endings
) -> None:
    rows = [row(index, 3 + index % 4) for index in range(10)]
    submit(batcher, rows)
    for index, ending in enumerate(endings.of(*rows)):
        size = 3 + index % 4
        assert result(ending) == "".join(chr(97 + (index + 1 + n) % 26) for n in range(size))
    assert decoder.widest == 4
    assert batcher.active == 0


def test_rows_wait_where_memory_would_not_hold_them(
    decoder: CountingDecoder, endings: Endings
) -> None:
    batcher = Batcher(decoder, endings.deliver, "model:1", memory_budget=12)
    rows = [row(index) for index in range(5)]  # six columns each: two fit
    submit(batcher, rows)
    assert [len(result(ending)) for ending in endings.of(*rows)] == [5] * 5
    assert decoder.widest == 2
    batcher.stop()


def test_out_of_memory_costs_the_newest_rows_only(
    batcher: Batcher, decoder: CountingDecoder, endings: Endings
) -> None:
    decoder.fail = lambda rows: MemoryError("full") if rows > 2 else None
    old = [row(0, 2000), row(1, 2000)]
    submit(batcher, old)
    new = row(2)
    while batcher.steps < 3:
        time.sleep(0)
    batcher.submit(new)
    assert isinstance(endings.of(new)[0], OutOfMemoryError)
    assert [len(result(ending)) for ending in endings.of(*old)] == [2000, 2000]
    later = [row(3), row(4), row(5)]
    for one in later:
        batcher.submit(one)
    assert [len(result(ending)) for ending in endings.of(*later)] == [5, 5, 5]


def test_a_failed_step_fails_its_rows_and_no_later_ones(
    batcher: Batcher, decoder: CountingDecoder, endings: Endings
) -> None:
    decoder.fail = lambda _: ValueError("odd shapes")
    first = row(0)
    submit(batcher, [first])
    (ending,) = endings.of(first)
    assert isinstance(ending, NeuronError)
    assert "ValueError: odd shapes" in ending.message
    decoder.fail = lambda _: None
    second = row(1)
    batcher.submit(second)
    assert result(endings.of(second)[0]) == "cdefg"


def test_a_lost_device_fails_everything_and_says_so(
    batcher: Batcher, decoder: CountingDecoder, endings: Endings
) -> None:
    decoder.fail = lambda _: RuntimeError("CUDA error: an illegal memory access")
    rows = [row(0), row(1)]
    submit(batcher, rows)
    assert all(isinstance(ending, EngineCrashedError) for ending in endings.of(*rows))
    assert batcher.is_broken
    with pytest.raises(EngineCrashedError, match="illegal memory access"):
        batcher.submit(row(2))


def test_a_cancelled_row_leaves_and_the_others_stay(batcher: Batcher, endings: Endings) -> None:
    gone, stays = row(0, 10**9), row(1, 3000)
    submit(batcher, [gone, stays])
    batcher.cancel(gone)
    assert len(result(endings.of(stays)[0])) == 3000
    deadline = time.monotonic() + 5
    while batcher.active:
        assert time.monotonic() < deadline
        time.sleep(0)
