"""Whose turn it is, without a store."""

from __future__ import annotations

from collections import Counter

import pytest

from mnemos.cortex.sql.shares import RoundRobin, Shares


def served(rounds: RoundRobin, picks: int, costs: dict[str, float], **weights: float) -> list[str]:
    return [rounds.pick(costs, weights) for _ in range(picks)]


def test_keys_are_served_by_their_weights() -> None:
    got = Counter(served(RoundRobin(), 400, {"a": 1, "b": 1, "c": 1}, a=3, c=0.5))
    assert got == pytest.approx({"a": 267, "b": 89, "c": 44}, abs=4)


def test_what_a_job_costs_counts_and_not_how_many_there_are() -> None:
    rounds = RoundRobin()
    got = Counter(served(rounds, 110, {"big": 10, "small": 1}))
    assert got["small"] == pytest.approx(100, abs=10)
    assert got["big"] == pytest.approx(10, abs=1)


def test_a_job_that_costs_very_much_is_served_at_once_where_nobody_else_waits() -> None:
    assert served(RoundRobin(), 3, {"a": 1e9}, a=0.001) == ["a"] * 3


def test_a_newcomer_is_served_within_a_round() -> None:
    rounds = RoundRobin()
    served(rounds, 1000, {"a": 1, "b": 1}, a=5)
    assert "new" in served(rounds, 7, {"a": 1, "b": 1, "new": 1}, a=5)


def test_a_key_saves_up_nothing_while_nothing_of_it_waits() -> None:
    rounds = RoundRobin()
    served(rounds, 10, {"a": 1, "b": 1})
    rounds.keep_only({"b"})
    served(rounds, 1000, {"b": 1})
    got = Counter(served(rounds, 100, {"a": 1, "b": 1}))
    assert got["a"] == pytest.approx(50, abs=1)


def test_a_key_saves_up_no_more_than_a_turn_while_it_is_passed_over() -> None:
    rounds = RoundRobin()
    for _ in range(1000):  # one worker takes both keys' jobs, another only those of one
        rounds.pick({"a": 1, "b": 1}, {"a": 3.0})
        rounds.pick({"b": 1}, {"a": 3.0})
    got = Counter(served(rounds, 80, {"a": 1, "b": 1}, a=3))
    assert got["a"] == pytest.approx(60, abs=4)


def test_who_is_refunded_is_served_next() -> None:
    rounds = RoundRobin()
    first = rounds.pick({"a": 1, "b": 1}, {})
    rounds.refund(first, 1)
    assert rounds.pick({"a": 1, "b": 1}, {}) == first


@pytest.mark.parametrize("weight", [0, -1, float("inf"), float("nan")])
def test_a_weight_that_is_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="key_a"):
        Shares().set_weights({"key_a": weight})


@pytest.mark.parametrize("share", [0, 0.1, 0.3, 0.5])
def test_batches_have_their_share_however_much_else_waits(share: float) -> None:
    shares = Shares(batch_share=share)
    batches = 0
    for _ in range(1000):
        if shares.batch_is_due:
            shares.note_batch()
            batches += 1
        else:
            shares.note_online()
    assert batches == pytest.approx(1000 * share, abs=1)


def test_slots_kept_free() -> None:
    assert [Shares().slots_kept(slots) for slots in (1, 3, 4, 8, 16, 64)] == [0, 0, 1, 1, 2, 8]
    assert [Shares(interactive_slots=2).slots_kept(slots) for slots in (1, 2, 8)] == [0, 1, 2]
    assert Shares(interactive_slots=0).slots_kept(64) == 0
