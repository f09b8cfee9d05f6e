"""The order of versions, against semantic versioning's own example and what is no such version."""

from __future__ import annotations

from random import Random

import pytest

from mnemos.genome.semver import version_key

ASCENDING = [
    "0.9.9",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "v1.2",
    "1.10.0",
    "2",
    "12.0.0",
]


def test_versions_are_ordered_as_their_numbers_are() -> None:
    shuffled = Random(1).sample(ASCENDING, len(ASCENDING))
    assert sorted(shuffled, key=version_key) == ASCENDING


@pytest.mark.parametrize("version", ["7b-chat", "main", "1.2.3.4", "1.", "1.0_b", "1.0-", "٣.0"])
def test_what_is_no_semantic_version_comes_first(version: str) -> None:
    assert version_key(version) == version_key("anything") < version_key("0.0.0-0")


def test_what_may_be_left_out_is_zero() -> None:
    assert version_key("1") == version_key("v1.0") == version_key("1.0.0")
