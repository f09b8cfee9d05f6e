"""What waiting jobs ask for, lane by lane: a few reads of an index, however many jobs wait."""

from __future__ import annotations

from itertools import islice

from ..records import MOST_COUNTED, ModelKey, WaitingLane
from .engine import Connection
from .heads import HEADS, QUEUED_LANES
from .transaction import Row

MOST_LANES = 64
"""How many lanes are looked at; where more have jobs, it is those that were made first."""


def waiting_lanes(connection: Connection) -> list[WaitingLane]:
    """Return the lanes that have jobs to be claimed now, with the first of each."""
    lanes = list(islice(connection.execute(QUEUED_LANES, {}), MOST_LANES))
    found = []
    for lane in lanes:
        wanted = {"lane_id": lane["lane_id"], "limit": MOST_COUNTED}
        heads = list(connection.execute(HEADS, wanted))
        if heads:
            found.append(_lane(lane, heads[0], len(heads)))
    return found


def _lane(lane: Row, first: Row, jobs: int) -> WaitingLane:
    return WaitingLane(
        model=ModelKey(lane["family"], lane["version"], lane["runtime"]),
        job_type=lane["job_type"],
        min_memory_mb=lane["min_memory_mb"],
        min_gpu_memory_mb=lane["min_gpu_memory_mb"],
        tags=lane["tags"],
        priority=first["priority"],
        submitted_at=first["submitted_at"],
        jobs=jobs,
    )
