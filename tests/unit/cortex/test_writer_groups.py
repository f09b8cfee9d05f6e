"""Which calls of a commit are carried out together, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from mnemos.cortex.sql.transaction import Transaction
from mnemos.cortex.sql.writer import Combined, _alone, _groups, _Request, _touched


def kind_of(name: str) -> Combined[Any, Any]:
    def kind(tx: Transaction, items: Sequence[Any]) -> Sequence[Any]:
        return [name for _ in items]

    kind.__name__ = name
    return kind


KINDS = {name: kind_of(name) for name in ("say", "report", "submit")} | {"alone": _alone}


async def grouped(*requests: str) -> list[str]:
    """Requests are told as "kind item jobs…"; so are groups, with all their items."""
    loop = asyncio.get_running_loop()
    batch: list[_Request[Any]] = []
    for told in requests:
        name, item, *jobs = told.split()
        batch.append(_Request(KINDS[name], item, loop.create_future(), None, (), jobs))
    names = {id(kind): name for name, kind in KINDS.items()}
    return [
        " ".join([names[id(group.kind)], *(request.item for request in group.requests)])
        for group in _groups(batch)
    ]


@pytest.mark.parametrize(
    ("requests", "groups"),
    [
        (["say 1 a", "say 2 a", "say 3 b"], ["say 1 2 3"]),
        (["say 1 a", "report 2 b", "say 3 c", "report 4 d"], ["say 1 3", "report 2 4"]),
        (["say 1 a", "report 2 b", "say 3 b"], ["say 1", "report 2", "say 3"]),
        (["say 1 a", "report 2 a", "say 3 b"], ["say 1 3", "report 2"]),
        (["say 1 a", "report 2 a", "say 3 a", "report 4 b"], ["say 1", "report 2 4", "say 3"]),
        (["say 1 a", "report 2 b", "say 3 b", "say 4 c"], ["say 1", "report 2", "say 3 4"]),
        (["submit 1", "say 2 a", "submit 3", "say 4 a"], ["say 2 4", "submit 1 3"]),
        (
            ["submit 1", "alone 2", "submit 3", "say 4 a"],
            ["submit 1", "alone 2", "say 4", "submit 3"],
        ),
        (["say 1 a", "alone 2", "say 3 b"], ["say 1", "alone 2", "say 3"]),
        (["alone 1 a", "alone 2 a"], ["alone 1", "alone 2"]),
    ],
)
async def test_a_kind_is_put_together_unless_it_would_overtake(
    requests: list[str], groups: list[str]
) -> None:
    assert await grouped(*requests) == groups


@pytest.mark.parametrize(
    ("requests", "locked"),
    [
        (["say a", "say b"], ""),
        (["submit", "say a", "submit"], ""),
        (["say a", "report b"], "ab"),
        (["say a", "report a", "say a"], "a"),
        (["alone a"], "a"),
        (["alone a", "say b"], "ab"),
        (["say a", "alone"], ""),
        (["alone", "say a"], "a"),
    ],
)
async def test_one_group_locks_its_jobs_by_itself_and_several_have_them_locked_in_order(
    requests: list[str], locked: str
) -> None:
    loop = asyncio.get_running_loop()
    batch: list[_Request[Any]] = []
    for told in requests:
        name, *jobs = told.split()
        batch.append(_Request(KINDS[name], None, loop.create_future(), None, ["w"], jobs))
    touched = _touched(_groups(batch))
    assert (set(touched.workers), set(touched.jobs)) == ({"w"}, set(locked))
