"""Messages to workers say times as protobuf itself would."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mnemos.cortex.clock import as_datetime
from mnemos.cortex.grpc.outgoing import _input, duration, timestamp


@pytest.mark.parametrize("seconds", [0.0, 0.001, 14.999999999, 15, 300.25, 86_400.0])
def test_a_duration_is_exact(seconds: float) -> None:
    theirs = Duration()
    theirs.FromNanoseconds(round(seconds * 1e9))

    assert duration(seconds) == theirs


def test_no_duration_is_below_nought() -> None:
    assert duration(-0.5) == Duration()


@pytest.mark.parametrize("seconds", [0.0, 1_800_000_000.999999, 1_800_000_000.000001, 2e9])
def test_an_instant_is_exact(seconds: float) -> None:
    theirs = Timestamp()
    theirs.FromDatetime(as_datetime(seconds))

    assert timestamp(seconds) == theirs


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ('{"prompt": "Hi"}', "{}"),
        ('{"prompt": "Hi", "parameters": null}', "{}"),
        ('{"prompt": "Hi", "parameters": {"n": 1, "stop": ["\\u00e9"]}}', None),
    ],
)
def test_parameters_and_rows_are_told_as_they_are_stored(stored: str, told: str | None) -> None:
    told = told or '{"n": 1, "stop": ["\\u00e9"]}'
    message = _input(stored)
    assert (message.prompt, message.parameters_json) == ("Hi", told)
    rows = _input('{"inputs": [{"prompt": "a"}, null, 7, "\u00e9"]}')
    assert list(rows.inputs_json) == ['{"prompt": "a"}', "null", "7", '"\u00e9"']
