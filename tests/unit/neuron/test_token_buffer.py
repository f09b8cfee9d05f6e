"""Tokens become chunks: the first at once, the rest in batches, none lost, none doubled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from neuron.models.lease import AttemptRef
from neuron.utils.streaming import COALESCE_SECONDS, TokenBuffer

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


@given(
    st.lists(
        st.tuples(
            st.text(max_size=5),
            st.sampled_from(["add", "cut", "acknowledge", "rewind"]),
            st.floats(min_value=0, max_value=0.1),
        ),
        max_size=60,
    )
)
def test_whatever_happens_a_receiver_ends_with_the_whole_text(
    steps: list[tuple[str, str, float]],
) -> None:
    tokens = buffer()
    sent: list[str] = []
    received: dict[int, str] = {}
    now = 0.0
    for text, step, passed in steps:
        now += passed
        if step == "add":
            tokens.add(text, [])
            sent.append(text)
        elif step == "cut":
            received |= {chunk.sequence: chunk.content for chunk in tokens.cut(now)}
        elif step == "acknowledge":
            tokens.acknowledge(len(received))
        else:
            tokens.rewind()
    tokens.finish({})
    received |= {chunk.sequence: chunk.content for chunk in tokens.cut(now + 1)}

    assert list(received) == sorted(received)
    assert "".join(received[index] for index in sorted(received)) == "".join(sent)
    tokens.acknowledge(len(received))
    assert tokens.drained
