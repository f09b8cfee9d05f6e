"""Small pieces of structured concurrency."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def until_first(*coroutines: Coroutine[Any, Any, Any]) -> int:
    """Run all until one ends, cancel the others, and return the index of the one that ended.

    If it raised, an ExceptionGroup is raised. Cancelling cancels all.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
    return next(index for index, task in enumerate(tasks) if task in done)
