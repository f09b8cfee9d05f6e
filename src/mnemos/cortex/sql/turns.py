"""In which order one claim takes jobs from lanes of several keys, and of batches.

A batch that is owed its share goes first; else the highest priority. At one priority it is the
keys' turns that decide. A key has to wait for its turn where none of its jobs has waited long and
others have jobs that the worker is nearer to running: whose model it has loaded, or on its disk.
Between jobs of one key the same decides as where there are no keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .shares import Shares
from .transaction import Row

Rank = tuple[int, int, int]
"""Of a job: the highest priority first, then what waited long, then what is warm, then age."""

OVERDUE = 0
"""In the place of its lane's chill: how warm a job is counts no more."""


class Turn(NamedTuple):
    """What a job that was given cost whom."""

    priority: int
    key_id: str
    cost: float


class OpenLane:
    """A lane that a claim takes from: its first job, and those behind it as they are asked for."""

    __slots__ = (
        "_jobs",
        "chill",
        "cost",
        "is_batch",
        "is_overdue",
        "key_id",
        "priority",
        "rank",
        "row",
    )

    row: Row
    rank: Rank
    priority: int
    cost: float
    is_overdue: bool
    """Whether the first job has waited long."""

    def __init__(self, lane: Row, chill: int, jobs: Iterator[tuple[Rank, Row]]) -> None:
        self.chill = chill
        """How far the worker is from running its jobs."""
        self.key_id: str = lane["key_id"]
        self.is_batch = bool(lane["is_batch"])
        self._jobs = jobs

    def advance(self) -> bool:
        """Go on to the next job; say if there is one."""
        first = next(self._jobs, None)
        if first is None:
            return False
        self.rank, self.row = first
        self.priority = -self.rank[0]
        self.is_overdue = self.rank[1] == OVERDUE
        self.cost = _cost_of(self.row)
        return True


class Turns:
    """The order for one claim of a worker that has `free` slots, of which it keeps `kept` free."""

    def __init__(self, shares: Shares, lanes: Sequence[OpenLane], free: int, kept: int) -> None:
        self._shares = shares
        self._lanes = [lane for lane in lanes if lane.advance()]
        self._free = free
        self._kept = kept
        self.left_batches = False
        """Whether jobs of batches were left for the sake of slots that are kept free."""

    def jobs(self) -> Iterator[tuple[Row, Turn]]:
        """Jobs, the one whose turn it is first; each is paid for as it is returned."""
        while self._lanes:
            lane = self._next()
            if lane is None:
                return
            row = lane.row
            turn = Turn(lane.priority, lane.key_id, lane.cost)
            self._free -= 1
            yield row, turn
            if not lane.advance():
                self._lanes.remove(lane)

    def _next(self) -> OpenLane | None:
        online = [lane for lane in self._lanes if not lane.is_batch]
        batches = len(online) < len(self._lanes)
        if batches and online and self._shares.batch_is_due:
            chosen = self._pick([lane for lane in self._lanes if lane.is_batch])
        elif self._free > self._kept:
            chosen = self._pick(self._lanes)
        else:
            self.left_batches = batches
            if not online:
                return None
            chosen = self._pick(online)
        if chosen.is_batch:
            self._shares.note_batch()
        elif batches:
            self._shares.note_online()
        return chosen

    def _pick(self, lanes: Sequence[OpenLane]) -> OpenLane:
        priority = max([lane.priority for lane in lanes])
        lanes = [lane for lane in lanes if lane.priority == priority]
        chill = min([lane.chill for lane in lanes])
        best: dict[str, OpenLane] = {}
        for lane in lanes:
            if lane.chill == chill or lane.is_overdue:
                other = best.get(lane.key_id)
                if other is None or lane.rank < other.rank:
                    best[lane.key_id] = lane
        costs = {key_id: lane.cost for key_id, lane in best.items()}
        return best[self._shares.pick(priority, costs)]


def _cost_of(job: Row) -> float:
    """What a job counts for: one, or as many as it has rows."""
    return float(job["row_count"] or 1)
