"""When an engine counts as hung, ping by ping."""

from __future__ import annotations

import pytest

from neuron.runtimes.engine_watch import PING_SECONDS, StallWatch


def after(watch: StallWatch, ticks: int, *, steps: int = 0, busy: bool = True) -> str | None:
    """What is found after so many pings that were answered."""
    found = None
    for _ in range(ticks):
        watch.heard()
        found = watch.tick(steps, busy=busy)
    return found


@pytest.mark.parametrize("stall_seconds", [0.4, 8, 20, 22, 120, 3600])
def test_a_hang_is_found_in_time_and_never_too_early(stall_seconds: float) -> None:
    watch = StallWatch(stall_seconds)
    assert watch.interval <= min(PING_SECONDS, stall_seconds / 4)
    ticks = 1
    while after(watch, 1) is None:
        ticks += 1
    counted = (ticks - 1) * watch.interval  # the request may have come just before the first
    assert stall_seconds <= counted <= stall_seconds + watch.interval


def test_both_faults_are_named() -> None:
    watch = StallWatch(8)
    assert after(watch, 5) == "made no progress for 8 s"
    watch = StallWatch(8)
    for _ in range(4):
        assert watch.tick(0, busy=False) is None
    assert watch.tick(0, busy=False) == "has not answered for 8 s"


def test_an_idle_engine_never_stalls() -> None:
    watch = StallWatch(8)
    assert after(watch, 1000, busy=False) is None
    assert after(watch, 4) is None, "idle time was counted"
    assert after(watch, 1) is not None


def test_one_step_is_enough() -> None:
    watch = StallWatch(8)
    for steps in range(20):
        assert after(watch, 4, steps=steps) is None


def test_one_answered_ping_is_enough() -> None:
    watch = StallWatch(8)
    for _ in range(20):
        watch.heard()
        for _ in range(4):
            assert watch.tick(0, busy=False) is None


def test_time_without_work_does_not_hide_a_hang() -> None:
    watch = StallWatch(8)
    assert after(watch, 3) is None
    assert after(watch, 50, busy=False) is None
    assert after(watch, 3) == "made no progress for 8 s"


def test_a_last_answer_makes_all_good() -> None:
    watch = StallWatch(8)
    assert after(watch, 4) is None
    watch.answered_everything()
    assert after(watch, 3) is None
