"""Python's garbage collector, for a process that serves many small requests."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 10_000
"""How many new objects it waits for; Python's own 700 are a few requests."""


def calm_collector() -> None:
    """Leave what is there now out of all collections, and look through new objects less often.

    To be called once, when all is imported: a full collection would walk over every module's
    objects, for milliseconds, many times a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
