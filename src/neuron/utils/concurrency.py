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


def innermost(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group, out of all groups that it lies in."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
