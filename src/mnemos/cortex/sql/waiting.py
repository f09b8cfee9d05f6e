"""What waiting jobs ask for, kind by kind: a few reads of an index, however many jobs wait."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from ..records import MOST_COUNTED, ModelKey, WaitingLane
from .engine import Connection
from .heads import HEADS, QUEUED_LANES
from .transaction import Row

MOST_KINDS = 64
"""How many kinds are looked at; where more have jobs, it is those that were made first."""
_DEMANDS = (
    "runtime",
    "job_type",
    "family",
    "version",
    "min_memory_mb",
    "min_gpu_memory_mb",
    "tags",
)


def waiting_lanes(connection: Connection) -> list[WaitingLane]:
    """Return what jobs that can be claimed now demand, whosever they are."""
    kinds: dict[tuple[object, ...], list[Row]] = {}
    for lane in connection.execute(QUEUED_LANES, {}).fetchall():
        kinds.setdefault(tuple(lane[name] for name in _DEMANDS), []).append(lane)
    found = []
    for lanes in islice(kinds.values(), MOST_KINDS):
        heads = _heads(connection, lanes)
        if heads:
            found.append(_told(lanes[0], heads))
    return found


def _heads(connection: Connection, lanes: Sequence[Row]) -> list[Row]:
    """The first jobs of lanes that demand the same, no more than are counted."""
    heads: list[Row] = []
    for lane in lanes[:MOST_COUNTED]:
        wanted = {"lane_id": lane["lane_id"], "limit": MOST_COUNTED - len(heads)}
        heads += connection.execute(HEADS, wanted).fetchall()
        if len(heads) == MOST_COUNTED:
            break
    return heads


def _told(lane: Row, heads: Sequence[Row]) -> WaitingLane:
    first = min(heads, key=lambda head: (-head["priority"], head["seq"]))
    return WaitingLane(
        model=ModelKey(lane["family"], lane["version"], lane["runtime"]),
        job_type=lane["job_type"],
        min_memory_mb=lane["min_memory_mb"],
        min_gpu_memory_mb=lane["min_gpu_memory_mb"],
        tags=lane["tags"],
        priority=first["priority"],
        submitted_at=first["submitted_at"],
        jobs=len(heads),
    )
