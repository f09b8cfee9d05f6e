"""A job's log is the same, however the wire cuts it up."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemos.client import AnswerRestartedError, Token
from mnemos.client.following import Event, Follower, TokenReader

JOB = {
    "job_id": "job_1",
    "status": "completed",
    "model": {"family": "m", "version": "1"},
    "submitted_at": "now",
    "result": "ab\u2028c",
}
LINES = [
    ("state", {"status": "streaming", "attempt": 1}),
    ("token", {"content": "ab\u2028", "token_ids": [1, 2], "attempt": 1}),
    ("restart", {"reason": "the worker was lost", "attempt": 2}),
    ("token", {"content": "\n", "token_ids": [3], "attempt": 2}),
]


def wire(first: int = 0) -> bytes:
    text = ": keep-alive\n\n"
    for number, (kind, data) in list(enumerate(LINES))[first:]:
        body = json.dumps(data, ensure_ascii=False)
        text += f"id: {number}\nevent: {kind}\ndata: {body}\n\n"
    return (text + f"event: end\ndata: {json.dumps(JOB)}\n\n").encode()


@given(st.lists(st.integers(0, len(wire())), max_size=8), st.integers(0, len(wire())))
def test_pieces_and_cuts_change_nothing(cuts: list[int], broken_at: int) -> None:
    follower = Follower("job_1")
    read: list[Event] = []
    places = [0, *sorted(cut for cut in cuts if cut < broken_at), broken_at]
    for start, end in pairwise(places):
        read += follower.feed(wire()[start:end])
    call = follower.call()
    assert call.params == {"from_sequence": len(read)}
    read += follower.feed(wire(max(0, len(read) - 2)))  # what is read again is not told again
    assert [(event.kind, event.data) for event in read] == LINES
    assert [event.sequence for event in read] == [0, 1, 2, 3]
    assert follower.ended is not None
    assert follower.ended.result == "ab\u2028c"


def test_an_answer_that_begins_anew_is_told() -> None:
    reasons: list[str] = []
    events = list(Follower("job_1").feed(wire()))
    listening = TokenReader("job_1", reasons.append, after=-1)
    tokens = [token for event in events for token in listening.read(event)]
    assert tokens == [Token("ab\u2028", (1, 2), 1, 1), Token("\n", (3,), 2, 3)]
    assert reasons == ["the worker was lost"]
    deaf = TokenReader("job_1", None, after=-1)
    with pytest.raises(AnswerRestartedError) as restarted:
        _ = [token for event in events for token in deaf.read(event)]
    assert (restarted.value.sequence, restarted.value.job_id) == (2, "job_1")
    late = TokenReader("job_1", None, after=2)
    assert [token for event in events[3:] for token in late.read(event)] == tokens[1:]
