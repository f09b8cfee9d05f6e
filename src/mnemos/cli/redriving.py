"""Queueing dead letters again: CORTEX does it for some seconds a call, and says what is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .http import CortexClient
from .output import note


async def count(cortex_url: str, wanted: Mapping[str, Any]) -> int:
    """How many jobs fit."""
    async with CortexClient(cortex_url) as cortex:
        return int((await cortex.redrive({**wanted, "dry_run": True}))["jobs"])


async def redrive(cortex_url: str, wanted: Mapping[str, Any], expected: int) -> int:
    """Queue again what fits and say on stderr how far it is; returns how many that were.

    Cancelling leaves the rest as it was: the same command goes on with it.
    """
    done = 0
    asked = dict(wanted)
    async with CortexClient(cortex_url) as cortex:
        while True:
            answer = await cortex.redrive(asked)
            done += int(answer["jobs"])
            cursor = answer["next_cursor"]
            if cursor is None:
                return done
            note(f"{done}/{max(expected, done)} queued again")
            asked["cursor"] = cursor
            if "limit" in wanted:
                asked["limit"] = wanted["limit"] - done
