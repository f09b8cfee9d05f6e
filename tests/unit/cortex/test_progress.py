"""When a job's next attempt goes on, and when it starts over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mnemos.cortex.sql.progress import MAX_LEASED_BYTES, Course, Streamed, room_taken

SOUND = Course(
    job_type="inference",
    runtime="transformers",
    parameters={"temperature": 1.0, "logprobs": 2, "stop": ["\n"], "target": "Paris"},
    size_bytes=100,
    void_attempts=0,
    streamed=[Streamed("He", [7], 1), Streamed("llo", [], 1)],
)


def test_a_text_answer_goes_on() -> None:
    assert SOUND.goes_on
    assert replace(SOUND, runtime="vllm").goes_on
    assert replace(SOUND, parameters={"n": 1, "regex": None}).goes_on
    assert replace(SOUND, void_attempts=1, streamed=[Streamed("He", [7], 2)]).goes_on
    assert replace(SOUND, streamed=[Streamed("", [7], 1)]).goes_on, "its text lags behind"


@pytest.mark.parametrize(
    "change",
    [
        {"job_type": "training"},
        {"runtime": "pytorch"},
        {"parameters": {"json_schema": {}}},
        {"parameters": {"regex": "[a-z]+"}},
        {"parameters": {"choice": ["a", "b"]}},
        {"parameters": {"n": 2}},
        {"streamed": [Streamed('{"y": [1]}', [], 1), Streamed("", [7], 1)]},
        {"void_attempts": 1},
        {"size_bytes": MAX_LEASED_BYTES + 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_cannot_be_taken_up_starts_over(change: dict[str, Any]) -> None:
    assert not replace(SOUND, **change).goes_on


def test_tokens_take_no_more_room_in_a_message_than_is_counted() -> None:
    assert room_taken("é", [2**32 - 1]) == 2 + 5
