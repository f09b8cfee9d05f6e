"""Tokens become chunks: the first at once, the rest in batches, none lost, none doubled."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from neuron.clients import convert
from neuron.models.job import RowResult, StreamChunk
from neuron.models.lease import AttemptRef
from neuron.utils.streaming import COALESCE_SECONDS, TokenBuffer, wire_size

REF = AttemptRef("job_1", 1)


def buffer() -> TokenBuffer:
    return TokenBuffer(REF, clock=lambda: 0.0)


def test_the_first_token_goes_at_once_and_the_next_ones_together() -> None:
    tokens = buffer()
    tokens.add("a", [1])
    first = tokens.cut(10.0)
    tokens.add("b", [2])
    tokens.add("c", [3])

    assert [chunk.content for chunk in first] == ["a"]
    assert tokens.cut(10.0 + COALESCE_SECONDS / 2) == []
    later = tokens.cut(10.0 + COALESCE_SECONDS)
    assert [(chunk.sequence, chunk.content, chunk.token_ids) for chunk in later] == [
        (1, "bc", [2, 3])
    ]


def test_the_end_waits_for_nothing_and_carries_the_metadata() -> None:
    tokens = buffer()
    tokens.add("a", [1])
    tokens.cut(0.0)
    tokens.finish({"finish_reason": "stop"})

    (last,) = tokens.cut(0.0)

    assert last.is_final
    assert last.metadata == {"finish_reason": "stop"}
    before = tokens.drained
    tokens.acknowledge(2)
    assert (before, tokens.drained, tokens.size_bytes) == (False, True, 0)


def test_after_a_break_only_what_was_not_acknowledged_goes_again() -> None:
    tokens = buffer()
    for now, text in enumerate("abc"):
        tokens.add(text, [now])
        tokens.cut(float(now))
    tokens.acknowledge(1)
    tokens.rewind()

    assert [chunk.content for chunk in tokens.cut(9.0)] == ["b", "c"]
    assert tokens.cut(10.0) == []


def test_an_abandoned_buffer_holds_nothing() -> None:
    tokens = buffer()
    tokens.add("a", [1])
    tokens.cut(0.0)
    tokens.add("b", [2])
    tokens.abandon()

    assert tokens.cut(9.0) == []
    assert tokens.drained
    assert tokens.size_bytes == 0


def row(index: int, text: str = "x") -> RowResult:
    return RowResult(index=index, result={"result": text})


def test_a_row_is_a_chunk_of_its_own_behind_the_text_before_it() -> None:
    tokens = buffer()
    tokens.add("a", [1])
    tokens.add_row(row(3))
    tokens.add("b", [2])

    chunks = tokens.cut(0.0)

    assert [(c.sequence, c.content, c.token_ids, c.row) for c in chunks] == [
        (0, "a", [1], None),
        (1, "", [], row(3)),
        (2, "b", [2], None),
    ]


def test_rows_that_end_at_about_the_same_time_leave_together() -> None:
    tokens = buffer()
    tokens.add_row(row(0))
    first = tokens.cut(10.0)
    tokens.add_row(row(1))
    tokens.add_row(row(2))

    assert [chunk.row for chunk in first] == [row(0)]
    assert tokens.cut(10.0 + COALESCE_SECONDS / 2) == []
    assert tokens.has_unsent
    later = tokens.cut(10.0 + COALESCE_SECONDS)
    assert [chunk.row for chunk in later] == [row(1), row(2)]


def test_rows_are_kept_until_they_are_acknowledged() -> None:
    tokens = buffer()
    for index in range(3):
        tokens.add_row(row(index))
    tokens.cut(0.0)
    tokens.acknowledge(1)
    tokens.rewind()

    assert [chunk.row for chunk in tokens.cut(1.0)] == [row(1), row(2)]
    tokens.finish({})
    tokens.cut(2.0)
    tokens.acknowledge(4)
    assert (tokens.drained, tokens.size_bytes) == (True, 0)


def test_a_row_is_never_larger_in_a_message_than_was_counted() -> None:
    result = {"result": "漢字" * 1000, "id": 10**12, "at": datetime(2026, 1, 1, tzinfo=UTC)}
    chunk = StreamChunk(
        job_id="job_" + "a" * 32,
        sequence=2**31,
        content="",
        row=RowResult(index=2**31, result=result | {"what": AttemptRef}),
    )

    assert 6000 < convert.to_chunk(chunk).ByteSize() <= wire_size(chunk) < 6400


@given(
    st.lists(
        st.tuples(
            st.text(max_size=5),
            st.sampled_from(["add", "row", "cut", "acknowledge", "rewind"]),
            st.floats(min_value=0, max_value=0.1),
        ),
        max_size=60,
    )
)
def test_whatever_happens_a_receiver_ends_with_all_texts_and_rows_in_order(
    steps: list[tuple[str, str, float]],
) -> None:
    tokens = buffer()
    sent: list[str] = []
    received: dict[int, str] = {}

    def receive() -> None:
        received.update((chunk.sequence, _told(chunk)) for chunk in tokens.cut(now))

    now = 0.0
    for text, step, passed in steps:
        now += passed
        if step == "add":
            tokens.add(text, [])
            sent.append(text)
        elif step == "row":
            tokens.add_row(row(0, text))
            sent.append(f"<{text}>")
        elif step == "cut":
            receive()
        elif step == "acknowledge":
            tokens.acknowledge(len(received))
        else:
            tokens.rewind()
    tokens.finish({})
    now += 1
    receive()

    assert list(received) == sorted(received)
    assert "".join(received[index] for index in sorted(received)) == "".join(sent)
    tokens.acknowledge(len(received))
    assert tokens.drained


def _told(chunk: StreamChunk) -> str:
    return chunk.content if chunk.row is None else f"<{chunk.row.result['result']}>"
