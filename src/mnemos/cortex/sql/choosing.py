"""Which jobs a worker is given.

By priority; then what has waited long; then what the worker has loaded; then what lies on its
disk; then age. A job whose model another worker has loaded is left for that one a moment (see
warm_peers). Only the heads of lanes that fit are looked at, and lanes with nothing queued are
skipped over by the index, so a claim costs the same whether ten jobs wait or ten million.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from heapq import merge
from itertools import islice

from ..records import ClaimRequest, LoadedModel, ModelKey
from .fitting import Fit
from .suspects import LEFT_TO_RUN_APART_SECONDS, Suspects
from .transaction import Row, Transaction
from .warm_peers import LEFT_TO_WARM_SECONDS, WarmFleet, WarmPeers

WARM_MAY_OVERTAKE_SECONDS = 30.0
FEWEST_READ = 16
MOST_READ = 1024
"""So many heads of a lane are looked at to find some that may run beside others."""

_QUEUED_LANES = """
WITH RECURSIVE heads (lane_id) AS (
    SELECT MIN(lane_id) FROM queue
    UNION ALL
    SELECT (SELECT MIN(lane_id) FROM queue WHERE lane_id > heads.lane_id)
    FROM heads WHERE heads.lane_id IS NOT NULL
)
SELECT lanes.* FROM heads JOIN lanes ON lanes.lane_id = heads.lane_id
"""
_HEADS = """
SELECT jobs.seq, queue.lane_id, jobs.priority, jobs.attempt, jobs.submitted_at,
    jobs.available_at, jobs.size_bytes, jobs.lost_workers
FROM queue CROSS JOIN jobs WHERE queue.lane_id = :lane_id AND jobs.seq = queue.job_seq
ORDER BY queue.rank, queue.job_seq LIMIT :limit
"""


class Heads:
    """The heads of the queue's lanes, for all claims of one transaction.

    What one claim takes the others do not see, though nothing is written yet.
    """

    def __init__(self, tx: Transaction, most_lost: int) -> None:
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

    def lanes(self) -> list[Row]:
        """The lanes that had something queued when this transaction began to look."""
        if self._lanes is None:
            self._lanes = self._tx.all(_QUEUED_LANES, {})
        return self._lanes

    def first(self, lane_id: int, count: int) -> list[Row]:
        """The first `count` jobs of a lane that nobody has."""
        rows = self._free(lane_id)
        if len(rows) < count and lane_id not in self._ended:
            gone = len(self._taken) + len(self.lost)
            limit = max(count + gone, 2 * self._read[lane_id], FEWEST_READ)
            self._read[lane_id] = limit
            found = self._tx.all(_HEADS, {"lane_id": lane_id, "limit": limit})
            if len(found) < limit:
                self._ended.add(lane_id)
            self._rows[lane_id] = found
            rows = self._free(lane_id)
        return rows[:count]

    def _free(self, lane_id: int) -> list[Row]:
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


class Choice:
    """The jobs for one claim; `again_in_seconds` says when to ask again for what is left alone."""

    def __init__(self, tx: Transaction, request: ClaimRequest, fit: Fit, heads: Heads) -> None:
        self.again_in_seconds: float | None = None
        self.request = request
        self.jobs: list[Row] = []
        """What was chosen, the best first; of each the columns that decide about it."""
        self._tx = tx
        self._fit = fit
        self._heads = heads
        self._loaded = {model.key: model for model in request.models}
        self._on_disk = request.on_disk
        self._peers: WarmPeers | None = None

    def choose(self) -> None:
        """Take the best jobs that fit, as many as were asked for and fit into one answer."""
        worker_id = self.request.worker_id
        self._peers = WarmPeers(self._tx, worker_id, self._heads.fleet)
        self.jobs = list(self._best())
        self._heads.take(worker_id, self.jobs)

    def drop_lost(self, rows: Mapping[int, Row]) -> bool:
        """Keep only what others did not take or change at the same moment; say if they did."""
        own = [job for job in self.jobs if _is_same(job, rows.get(job["seq"]))]
        if len(own) == len(self.jobs):
            return False
        kept = {job["seq"] for job in own}
        lost = [job for job in self.jobs if job["seq"] not in kept]
        self._heads.lose(self.request.worker_id, lost)
        self.jobs = own
        return True

    def give_back(self) -> None:
        """Choose anew."""
        self._heads.give_back(self.request.worker_id, self.jobs)

    def _best(self) -> Iterator[Row]:
        heads: list[Iterable[tuple[tuple[int, int, int], Row]]] = []
        for lane in self._heads.lanes():
            model = self._loaded.get(ModelKey(lane["family"], lane["version"], lane["runtime"]))
            if _fits(lane, self.request, self._fit, model):
                warm = model is not None
                rows = self._first(lane) if warm else self._left_over(lane)
                chill = 1 if warm else 2 if self._has_files(lane) else 3
                heads.append([(_rank(row, self._tx.now, chill), row) for row in rows])
        room = self.request.max_bytes
        ranked = merge(*heads, key=lambda head: head[0])
        together = self._one_suspect(job for _, job in ranked)
        for taken, job in enumerate(islice(together, self.request.max_jobs)):
            room -= job["size_bytes"]
            if taken and room < 0:
                return
            yield job

    def _has_files(self, lane: Row) -> bool:
        return (lane["family"], lane["version"]) in self._on_disk

    def _first(self, lane: Row, more: int = 0) -> list[Row]:
        count = read = self.request.max_jobs + more
        while True:
            rows = self._heads.first(lane["lane_id"], read)
            fitting = list(self._one_suspect(rows))
            if len(fitting) >= count or len(rows) < read or read >= MOST_READ:
                return fitting[:count]
            read *= 2

    def _one_suspect(self, jobs: Iterable[Row]) -> Iterator[Row]:
        """Leave out all suspects but one, or that one too if the worker has another already."""
        suspects, worker_id = self._heads.suspects, self.request.worker_id
        has_one: bool | None = None
        for job in jobs:
            if suspects.is_one(job):
                if has_one is None:
                    has_one = suspects.has_one(worker_id)
                if has_one:
                    self._ask_again_in(LEFT_TO_RUN_APART_SECONDS)
                    continue
                has_one = True
            yield job

    def _left_over(self, lane: Row) -> list[Row]:
        """The heads of a lane, less what is left for workers that have its model loaded."""
        rows = self._first(lane)
        if all(self._tx.now - row["available_at"] >= LEFT_TO_WARM_SECONDS for row in rows):
            return rows
        assert self._peers is not None
        room = self._peers.room_for(lane)
        if not room:
            return rows
        rows = [row for row in self._first(lane, more=room) if not self._is_left(lane, row)]
        return rows[: self.request.max_jobs]

    def _is_left(self, lane: Row, job: Row) -> bool:
        assert self._peers is not None
        seconds = self._peers.seconds_to_leave(lane, job)
        if seconds <= 0:
            return False
        self._ask_again_in(seconds)
        return True

    def _ask_again_in(self, seconds: float) -> None:
        self.again_in_seconds = min(seconds, self.again_in_seconds or seconds)


def _is_same(job: Row, row: Row | None) -> bool:
    return row is not None and bool(row["lane_id"] == job["lane_id"])


def _rank(job: Row, now: float, chill: int) -> tuple[int, int, int]:
    overdue = now - job["submitted_at"] >= WARM_MAY_OVERTAKE_SECONDS
    return -job["priority"], 0 if overdue else chill, job["seq"]


def _fits(lane: Row, request: ClaimRequest, fit: Fit, model: LoadedModel | None) -> bool:
    """Say whether the worker can run the lane's jobs; `model` is theirs if it is loaded.

    What a submitter asked for is there when the model is loaded. What a job turned out to need
    must be had: a loaded model adds what it holds, unless it is idle, when that counts as
    available already. So a job goes not back to the worker that it was too big for.
    """
    if not fit.offers(lane["runtime"], lane["job_type"]):
        return False
    if not fit.carries(json.loads(lane["tags"])):
        return False
    if model is not None and not lane["measured"]:
        return True
    held = model.memory_mb if model is not None and model.active_jobs else 0
    memory_mb, gpu_memory_mb = int(lane["min_memory_mb"]), int(lane["min_gpu_memory_mb"])
    return (
        memory_mb <= request.memory_available_mb + held
        and gpu_memory_mb <= request.gpu_memory_available_mb + held
    )
