"""Messages to workers say times as protobuf itself would."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mnemos.cortex.clock import as_datetime
from mnemos.cortex.grpc.outgoing import duration, timestamp


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
