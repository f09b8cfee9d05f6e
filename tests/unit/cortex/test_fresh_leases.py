"""Which first renewals need no commit."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

from mnemos.cortex.grpc.fresh_leases import FRESH_SHARE, FreshLeases
from mnemos.cortex.records import AttemptRef, LeasedJob

LEASE = 15.0
FRESH = FRESH_SHARE * LEASE


_STREAMS = ExitStack()
"""They stay open."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def leased(job_id: str, attempt: int = 1, seconds: float = LEASE) -> LeasedJob:
    job: Any = SimpleNamespace(job_id=job_id, attempt=attempt)
    return cast(LeasedJob, SimpleNamespace(job=job, lease_seconds=seconds))


def granted(*jobs: LeasedJob, worker_id: str = "wrk_a") -> tuple[FreshLeases, Clock]:
    clock = Clock()
    fresh = FreshLeases(LEASE, clock)
    _STREAMS.enter_context(fresh.watched(worker_id))
    fresh.note(worker_id, jobs, fresh.now())
    return fresh, clock


def test_what_was_just_granted_stands_less_the_time_since_it_was_asked_for() -> None:
    fresh, clock = granted(leased("job_1"), leased("job_2"))
    clock.now += 0.25

    refs = [AttemptRef("job_1", 1), AttemptRef("job_2", 1)]

    assert fresh.confirm("wrk_a", refs) == LEASE - 0.25


def test_the_shortest_lease_counts() -> None:
    fresh, _ = granted(leased("job_1"), leased("job_2", seconds=2))

    assert fresh.confirm("wrk_a", [AttemptRef("job_1", 1), AttemptRef("job_2", 1)]) == 2


def test_it_is_confirmed_so_once() -> None:
    fresh, _ = granted(leased("job_1"))
    assert fresh.confirm("wrk_a", [AttemptRef("job_1", 1)])

    assert fresh.confirm("wrk_a", [AttemptRef("job_1", 1)]) is None


def test_the_store_is_asked_of_whatever_is_not_fresh_and_the_worker_s_own() -> None:
    for worker_id, refs in (
        ("wrk_b", [AttemptRef("job_1", 1)]),
        ("wrk_a", [AttemptRef("job_1", 2)]),
        ("wrk_a", [AttemptRef("job_2", 1)]),
        ("wrk_a", [AttemptRef("job_1", 1), AttemptRef("job_2", 1)]),
        ("wrk_a", []),
    ):
        fresh, _ = granted(leased("job_1"))
        assert fresh.confirm(worker_id, refs) is None, (worker_id, refs)


def test_a_late_renewal_is_the_store_s() -> None:
    fresh, clock = granted(leased("job_1"))
    clock.now += FRESH + 0.01

    assert fresh.confirm("wrk_a", [AttemptRef("job_1", 1)]) is None


def test_what_is_never_confirmed_is_forgotten() -> None:
    fresh, clock = granted(*(leased(f"job_{index}") for index in range(100)))
    clock.now += FRESH + 0.01
    fresh.note("wrk_a", [leased("job_x")], clock.now)

    assert len(fresh._granted) == 1


def test_without_an_open_stream_nothing_is_fresh() -> None:
    """Then some CORTEX may suspect the worker, and make its leases shorter."""
    fresh = FreshLeases(LEASE, Clock())
    fresh.note("wrk_a", [leased("job_1")], fresh.now())
    assert fresh.confirm("wrk_a", [AttemptRef("job_1", 1)]) is None

    with fresh.watched("wrk_a"):
        fresh.note("wrk_a", [leased("job_2")], fresh.now())
    with fresh.watched("wrk_a"):
        assert fresh.confirm("wrk_a", [AttemptRef("job_2", 1)]) is None

        with fresh.watched("wrk_a"), fresh.watched("wrk_b"):
            fresh.note("wrk_a", [leased("job_3")], fresh.now())
            fresh.note("wrk_b", [leased("job_4")], fresh.now())
        assert fresh.confirm("wrk_a", [AttemptRef("job_3", 1)]) is None
        fresh.note("wrk_a", [leased("job_5")], fresh.now())
        assert fresh.confirm("wrk_a", [AttemptRef("job_5", 1)]) == LEASE
    assert not fresh._watched
