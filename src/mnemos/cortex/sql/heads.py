"""The first jobs of the queue's lanes, read as far as they are looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from .many import INT, Among
from .shares import Shares
from .suspects import Suspects
from .transaction import Row, Transaction
from .warm_peers import WarmFleet

FEWEST_READ = 16

QUEUED_LANES = """
WITH RECURSIVE heads (lane_id) AS (
    SELECT MIN(lane_id) FROM queue
    UNION ALL
    SELECT (SELECT MIN(lane_id) FROM queue WHERE lane_id > heads.lane_id)
    FROM heads WHERE heads.lane_id IS NOT NULL
)
SELECT lanes.* FROM heads JOIN lanes ON lanes.lane_id = heads.lane_id
"""
_COLUMNS = """
    jobs.seq, queue.lane_id, jobs.priority, jobs.attempt, jobs.submitted_at, jobs.available_at,
    jobs.size_bytes, jobs.lost_workers, jobs.row_count
"""
HEADS = f"""
SELECT {_COLUMNS} FROM queue CROSS JOIN jobs
WHERE queue.lane_id = :lane_id AND jobs.seq = queue.job_seq
ORDER BY queue.rank, queue.job_seq LIMIT :limit
"""  # noqa: S608  constants only
_HEADS_OF_MANY = Among(
    f"""
SELECT heads.* FROM lanes CROSS JOIN LATERAL (
    SELECT {_COLUMNS} FROM queue CROSS JOIN jobs
    WHERE queue.lane_id = lanes.lane_id AND jobs.seq = queue.job_seq
    ORDER BY queue.rank, queue.job_seq LIMIT :limit
) AS heads
WHERE lanes.lane_id = ANY(:keys)
""",  # noqa: S608  constants only
    INT,
)
_HEADS_OF_MANY_WITHOUT_LATERAL = Among(
    f"""
SELECT {_COLUMNS} FROM lanes CROSS JOIN queue CROSS JOIN jobs
WHERE lanes.lane_id = ANY(:keys) AND queue.job_seq IN (
    SELECT job_seq FROM queue AS own WHERE own.lane_id = lanes.lane_id
    ORDER BY own.rank, own.job_seq LIMIT :limit
) AND jobs.seq = queue.job_seq
""",  # noqa: S608  constants only
    INT,
)


class Heads:
    """The heads of the queue's lanes, for all claims of one transaction.

    What one claim takes the others do not see, though nothing is written yet.
    """

    def __init__(self, tx: Transaction, most_lost: int, shares: Shares) -> None:
        self._tx = tx
        self._lanes: list[Row] | None = None
        self._rows: dict[int, list[Row]] = {}
        self._read: Counter[int] = Counter()
        self._ended: set[int] = set()
        self._taken: set[int] = set()
        self.lost: set[int] = set()
        """Jobs that others were faster for."""
        self._taken_by: Counter[str] = Counter()
        self.fleet = WarmFleet(tx, self._taken_by)
        self.suspects = Suspects(tx, most_lost)
        self.shares = shares

    def lanes(self) -> list[Row]:
        """The lanes that had something queued when this transaction began to look."""
        if self._lanes is None:
            self._lanes = self._tx.all(QUEUED_LANES, {})
            self.shares.keep_only({lane["key_id"] for lane in self._lanes})
        return self._lanes

    def first(self, lane_id: int, count: int) -> list[Row]:
        """The first `count` jobs of a lane that nobody has."""
        rows = self.known(lane_id)
        if len(rows) < count and lane_id not in self._ended:
            gone = len(self._taken) + len(self.lost)
            limit = max(count + gone, 2 * self._read[lane_id], FEWEST_READ)
            self._read[lane_id] = limit
            found = self._tx.all(HEADS, {"lane_id": lane_id, "limit": limit})
            if len(found) < limit:
                self._ended.add(lane_id)
            self._rows[lane_id] = found
            rows = self.known(lane_id)
        return rows[:count]

    def read_ahead(self, lane_ids: Sequence[int], count: int) -> None:
        """Read the first jobs of many lanes at once: of each a few, about `count` altogether."""
        if len(lane_ids) < 2:
            return  # first() reads as many at once as are wanted
        bare = [one for one in lane_ids if one not in self._ended and not self.known(one)]
        if not bare:
            return
        most = max(FEWEST_READ, count)
        known = max([self._read[lane_id] for lane_id in bare])
        limit = max(2, min(most, 2 * most // len(bare)), 2 * known)
        statement = _HEADS_OF_MANY if self._tx.shared else _HEADS_OF_MANY_WITHOUT_LATERAL
        found: dict[int, list[Row]] = {lane_id: [] for lane_id in bare}
        for row in self._tx.among(statement, bare, limit=limit):
            found[row["lane_id"]].append(row)
        for lane_id, rows in found.items():
            self._read[lane_id] = limit
            if len(rows) < limit:
                self._ended.add(lane_id)
            self._rows[lane_id] = sorted(rows, key=place_of)

    def known(self, lane_id: int) -> list[Row]:
        """The first jobs of a lane that nobody has, as far as they were read."""
        rows = self._rows.get(lane_id, [])
        if self._taken or self.lost:
            gone = self._taken | self.lost if self.lost else self._taken
            rows = self._rows[lane_id] = [row for row in rows if row["seq"] not in gone]
        return rows

    def take(self, worker_id: str, jobs: Collection[Row]) -> None:
        """Let a worker have jobs."""
        self._taken.update(job["seq"] for job in jobs)
        self._taken_by[worker_id] += len(jobs)
        self.suspects.give(worker_id, jobs)

    def lose(self, worker_id: str, jobs: Collection[Row]) -> None:
        """Note that others were faster for jobs that a worker was to have."""
        self.lost.update(job["seq"] for job in jobs)
        self._taken_by[worker_id] -= len(jobs)
        self.suspects.take_back(worker_id, jobs)

    def give_back(self, worker_id: str, jobs: Collection[Row]) -> None:
        """Let a worker choose anew."""
        self._taken.difference_update(job["seq"] for job in jobs)
        self._taken_by[worker_id] -= len(jobs)
        self.suspects.take_back(worker_id, jobs)
        self._lanes = None
        self._rows.clear()
        self._ended.clear()


def place_of(row: Row) -> tuple[int, int]:
    """Where a job stands in its lane."""
    return -row["priority"], row["seq"]
