"""The behaviour of every store, part 5: whatever happens in whatever order, the books balance."""

from __future__ import annotations

import pytest
from cortex_tools import StoreTools
from store_chaos import WORKERS, Chaos, check_books, check_log

STEPS = 400


@pytest.mark.parametrize("seed", range(4))
async def test_the_books_balance_whatever_happens(tools: StoreTools, seed: int) -> None:
    for worker_id in WORKERS:
        await tools.register(worker_id)
    chaos = Chaos(tools, seed)
    for _ in range(STEPS):
        await chaos.step()
    await check_books(tools)
    for job_id in chaos.jobs:
        await check_log(tools, job_id)
    assert chaos.accepted
    assert set(chaos.accepted.values()) == {1}
