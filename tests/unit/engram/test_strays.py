"""Which objects may be removed: old ones that nothing names, of versions that are asked about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mnemos.cli.commands.model_copies import prune_models
from mnemos.engram.publish import REUSED_FOR
from mnemos.engram.store import ObjectInfo
from mnemos.engram.strays import GRACE, find_strays, version_of

HOUR = timedelta(hours=1)


def info(key: str, age: timedelta) -> ObjectInfo:
    return ObjectInfo(key, 1, datetime.now(UTC) - age, None)


def test_only_old_objects_of_settled_versions_that_nothing_names_are_strays() -> None:
    stray = info("tiny/1/aaaa/config.json", 2 * HOUR)
    old_layout = info("tiny/1/config.json", 2 * HOUR)
    listed = [
        stray,
        old_layout,
        info("tiny/1/aaaa/young.json", HOUR / 2),
        info("tiny/1/bbbb/config.json", 2 * HOUR),
        info("tiny/10/aaaa/config.json", 2 * HOUR),
        info("readme", 2 * HOUR),
    ]
    found = find_strays(listed, {"tiny/1/bbbb/config.json"}, {("tiny", "1")}, HOUR)
    assert found == [stray, old_layout]


@pytest.mark.parametrize("key", ["readme", "a/b", "-a/b/c", "a/../c", "results/ü/c"])
def test_what_is_no_models_object_is_never_asked_about(key: str) -> None:
    assert version_of(key) is None


def test_what_a_push_takes_over_is_younger_than_what_is_removed() -> None:
    (older_than,) = [each for each in prune_models.params if each.name == "older_than_seconds"]
    assert older_than.default == f"{GRACE // HOUR}h"
    assert REUSED_FOR < GRACE
