"""Each rule that is taken out of the lease core, or of a store over it, is noticed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest
from fleet_simulation import simulate
from lease_machine import compare_with_reference
from lease_mutants import MUTANTS, mutant, unchanged
from simulated.flaws import FLAWS, Flaws

from mnemos.cortex import lease_core

SEEDS = 100
FLAW_SEEDS = 200
"""Some of what is wrong with a store or a worker shows seldom."""
EXAMPLES = 400
MORE_EXAMPLES = 4000


def notice_of_fleets(
    core: Any, flaws: Flaws | None = None, *, seeds: int = SEEDS
) -> Exception | None:
    """What goes wrong in some fleet first; None if nothing does."""
    for seed in range(seeds):
        try:
            simulate(seed, core, flaws)
        except Exception as error:  # noqa: BLE001  a mutant may fail in any way
            return error
    return None


def notice_of_reference(
    core: Any, *, looks: Sequence[int] = (EXAMPLES, MORE_EXAMPLES)
) -> BaseException | None:
    """What parts the core from the words first; None if nothing does.

    A mutant that few examples notice is looked at longer: which examples there are depends on the
    modules that are loaded.
    """
    for examples in looks:
        try:
            compare_with_reference(core, examples=examples, shrink=False)
        except Exception as error:  # noqa: BLE001  a mutant may fail in any way
            return error
    return None


def test_there_are_twelve_and_more() -> None:
    assert len(MUTANTS) + len(FLAWS) >= 12


@pytest.mark.parametrize("name", MUTANTS)
def test_the_comparison_with_the_words_notices(name: str) -> None:
    with mutant(name) as core:
        assert notice_of_reference(core) is not None


@pytest.mark.parametrize("name", MUTANTS)
def test_fleets_notice(name: str) -> None:
    with mutant(name) as core:
        assert notice_of_fleets(core) is not None


@pytest.mark.parametrize("name", FLAWS)
def test_fleets_notice_a_store_or_worker_that_is_wrong(name: str) -> None:
    assert notice_of_fleets(lease_core, FLAWS[name], seeds=FLAW_SEEDS) is not None


@pytest.fixture
def same() -> Iterator[ModuleType]:
    """The core as it is, loaded as mutants are."""
    with unchanged() as core:
        assert core is not lease_core
        yield core


def test_nothing_is_noticed_where_nothing_was_taken_out(same: ModuleType) -> None:
    assert notice_of_reference(same, looks=[EXAMPLES]) is None
    assert notice_of_fleets(same) is None
