"""What the batcher does when a step fails; a small decoder of our own fails on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest
import torch

from neuron.errors import EngineCrashedError, NeuronError, OutOfMemoryError
from neuron.models.job import JobOutput
from neuron.models.sampling import SamplingParameters
from neuron.runtimes.transformers_engine.batcher import CALM_STEPS, Batcher
from neuron.runtimes.transformers_engine.guide import Guide
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
        self.widths: list[int] = []
        self.read: list[list[int]] = []

    @property
    def widest(self) -> int:
        return max(self.widths)

    def prefill(
        self, first_row: int, start: int, chunks: Sequence[Sequence[int]], *, every: bool = False
    ) -> torch.Tensor:
        assert not every
        self.read += map(list, chunks)
        return self._after([chunk[-1] for chunk in chunks], first_row + len(chunks))

    def decode(self, tokens: Sequence[int]) -> torch.Tensor:
        return self._after(tokens, len(tokens))

    def _after(self, tokens: Sequence[int], rows: int) -> torch.Tensor:
        if (error := self.fail(rows)) is not None:
            raise error
        self.widths.append(rows)
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


def test_out_of_memory_lets_fewer_rows_run_and_fails_none(
    batcher: Batcher, decoder: CountingDecoder, endings: Endings
) -> None:
    decoder.fail = lambda rows: torch.OutOfMemoryError("full") if rows > 2 else None
    rows = [row(index, 60 + index) for index in range(6)]
    submit(batcher, rows)
    for index, ending in enumerate(endings.of(*rows)):
        size = 60 + index
        assert result(ending) == "".join(chr(97 + (index + 1 + n) % 26) for n in range(size))
    assert decoder.widest == 2


def test_the_newest_running_row_waits_and_keeps_its_tokens(
    batcher: Batcher, decoder: CountingDecoder, endings: Endings
) -> None:
    rows = [row(0, 300), row(1, 300), row(2, 300)]
    failed_at: list[list[int]] = []
    width_at_failure: list[int] = []

    def fail_once(count: int) -> BaseException | None:
        if failed_at or min(len(one.tokens) for one in rows) < 20:
            return None
        failed_at.append([len(one.tokens) for one in rows])
        width_at_failure.append(len(decoder.widths))
        return MemoryError("full")

    decoder.fail = fail_once
    submit(batcher, rows)
    assert [len(result(ending)) for ending in endings.of(*rows)] == [300] * 3
    assert failed_at
    again = [text for text in decoder.read if len(text) > 1]
    assert again == [[2, *rows[2].tokens[: failed_at[0][2]]]]
    after = decoder.widths[width_at_failure[0] :]
    assert set(after[: CALM_STEPS - 1]) == {2}
    assert 3 in after, "it runs beside the others again"


class FullOnce(Guide):
    """Allows all; memory runs out when it is asked for the tenth time."""

    def __init__(self) -> None:
        self.asked = 0

    def allowed(self) -> torch.Tensor:
        self.asked += 1
        if self.asked == 10:
            raise torch.OutOfMemoryError("full")
        return torch.ones(26, dtype=torch.bool)

    def accept(self, token: int) -> None:
        pass

    @property
    def is_complete(self) -> bool:
        return False


def test_where_drawing_runs_out_of_memory_every_row_is_read_again(
    batcher: Batcher, decoder: CountingDecoder, endings: Endings
) -> None:
    parameters = SamplingParameters(temperature=0, regex=".*")
    guided = Row(
        [1], parameters, max_tokens=30, end_tokens=(), seed=1, tokenizer=Letters(),
        guide=FullOnce(),
    )  # fmt: skip
    plain = row(0, 30)
    submit(batcher, [plain, guided])
    assert [len(result(ending)) for ending in endings.of(plain, guided)] == [30, 30]
    again = sorted(text for text in decoder.read if len(text) > 1)
    assert again[0] == [0, *plain.tokens[: len(again[0]) - 1]]
    assert again[1] == [1, *guided.tokens[:9]]
    assert len(again) == 2


def test_a_row_that_runs_out_of_memory_alone_fails_and_the_next_runs(
    batcher: Batcher, decoder: CountingDecoder, endings: Endings
) -> None:
    large, small = row(25, 50), row(0, 50)
    decoder.fail = lambda _: torch.OutOfMemoryError("full") if len(large.tokens) == 30 else None
    submit(batcher, [large])
    (ending,) = endings.of(large)
    assert isinstance(ending, OutOfMemoryError)
    assert "model:1 ran out of memory: full" in ending.message
    decoder.fail = lambda _: None
    batcher.submit(small)
    assert len(result(endings.of(small)[0])) == 50


def test_concurrency_comes_back_slowly_once_memory_is_there(
    batcher: Batcher, decoder: CountingDecoder, endings: Endings
) -> None:
    decoder.fail = lambda rows: torch.OutOfMemoryError("full") if rows > 1 else None
    first = [row(index, 20) for index in range(4)]
    submit(batcher, first)
    endings.of(*first)
    assert decoder.widest == 1
    decoder.fail = lambda _: None
    long = [row(index, 4 * CALM_STEPS) for index in range(4)]
    for one in long:
        batcher.submit(one)
    endings.of(*long)
    assert decoder.widest == 4
    wider = [decoder.widths.index(count) for count in (2, 3, 4)]
    assert all(later - sooner >= CALM_STEPS for sooner, later in pairwise(wider))


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


def test_a_cancelled_row_leaves_within_a_step_and_keeps_what_it_had(
    decoder: CountingDecoder,
) -> None:
    gone, stays = row(0, 10**9), row(1, 3000)
    at_cancel: list[int] = []
    endings = Endings()

    def deliver(pieces: list[tuple[Row, Piece]]) -> None:
        endings.deliver(pieces)
        if not at_cancel and len(gone.tokens) >= 10:
            at_cancel.append(len(decoder.widths))
            made.cancel(gone)

    made = Batcher(decoder, deliver, "model:1")
    submit(made, [gone, stays])
    assert len(result(endings.of(stays)[0])) == 3000
    made.stop()
    assert set(decoder.widths[at_cancel[0] :]) == {1}
    assert gone.text == "bcdefghijk"
    assert len(gone.tokens) == 10
    assert made.active == 0
