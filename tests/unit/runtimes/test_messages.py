"""Frames survive any cutting, and bad ones are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.models.runtime import RuntimeType
from neuron.runtimes import messages
from neuron.runtimes.messages import FrameDecoder, FrameError, encode_frame

texts = st.text(max_size=50)
ids = st.integers(0, 2**63)
tokens = st.lists(st.integers(0, 2**31), max_size=5)
outputs: st.SearchStrategy[messages.Message] = st.one_of(
    st.builds(messages.Delta, ids, texts, tokens),
    st.builds(messages.Done, ids, texts, tokens, st.dictionaries(texts, texts, max_size=3)),
    st.builds(messages.Failed, ids, texts, texts, st.dictionaries(texts, texts, max_size=3)),
)


def decoder() -> FrameDecoder[messages.DataToWorker]:
    return FrameDecoder(messages.DataToWorker)


@given(st.lists(outputs, max_size=6), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_any_cut_gives_the_same_messages(sent: list[messages.Message], cuts: list[int]) -> None:
    stream = b"".join(map(encode_frame, sent))
    reader, received, position = decoder(), list[Any](), 0
    while position < len(stream):
        size = cuts[position % len(cuts)]
        received += reader.feed(stream[position : position + size])
        position += size
    assert received == sent
    assert not reader.is_inside_frame


@pytest.mark.parametrize(
    ("message", "channel"),
    [
        (
            messages.Load(RuntimeType.TRANSFORMERS, "f", "1", {"device": "cpu"}, {}),
            messages.ControlToEngine,
        ),
        (messages.Cancel(7), messages.ControlToEngine),
        (messages.Ping(), messages.ControlToEngine),
        (messages.Shutdown(), messages.ControlToEngine),
        (messages.Ready(1), messages.ControlToWorker),
        (messages.Started(), messages.ControlToWorker),
        (messages.Loaded(5), messages.ControlToWorker),
        (messages.LoadFailed("internal", "m", {"a": 1}), messages.ControlToWorker),
        (messages.Pong(1, 2, 3), messages.ControlToWorker),
        (messages.Execute(1, {"prompt": "x"}, None), messages.DataToEngine),
    ],
)
def test_every_message_comes_back_whole(message: messages.Message, channel: Any) -> None:
    reader: FrameDecoder[Any] = FrameDecoder(channel)
    assert list(reader.feed(encode_frame(message))) == [message]


def test_a_truncated_frame_gives_nothing_and_is_noticed() -> None:
    reader = decoder()
    assert list(reader.feed(encode_frame(messages.Delta(1, "abc", [1]))[:-1])) == []
    assert reader.is_inside_frame


def test_a_frame_over_the_limit_is_refused_from_its_header() -> None:
    size = messages.MAX_FRAME_BYTES + 1
    with pytest.raises(FrameError, match=f"{size} bytes is over the limit"):
        list(decoder().feed(size.to_bytes(4, "big")))


def test_a_message_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_FRAME_BYTES", 100)
    with pytest.raises(FrameError, match="over the limit of 100 bytes"):
        encode_frame(messages.Delta(1, "x" * 200, []))


@pytest.mark.parametrize(
    "frame",
    [
        (3).to_bytes(4, "big") + b"\xc1\xc1\xc1",
        encode_frame(messages.Cancel(1)),
        (1).to_bytes(4, "big") + b"\x00",
    ],
    ids=["no msgpack", "another channel's message", "a bare number"],
)
def test_what_is_no_message_is_refused(frame: bytes) -> None:
    with pytest.raises(FrameError, match="no message of this channel"):
        list(decoder().feed(frame))


def test_messages_before_a_bad_frame_still_arrive() -> None:
    good = messages.Delta(1, "a", [])
    reading = decoder().feed(encode_frame(good) + (1).to_bytes(4, "big") + b"\x00")
    assert next(reading) == good
    with pytest.raises(FrameError):
        next(reading)
