"""Which jobs a worker is given.

By priority; then what has waited long; then what the worker has loaded; then what lies on its
disk; then age. Where jobs of several keys or of batches wait, turns decide first (see turns). A
job whose model another worker has loaded is left for that one a moment (see warm_peers). Only the
heads of lanes that fit are looked at, and lanes with nothing queued are skipped over by the index,
so a claim costs the same whether ten jobs wait or ten million.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge

from ..records import ClaimRequest, LoadedModel, ModelKey
from .fitting import Fit
from .heads import Heads, place_of
from .suspects import LEFT_TO_RUN_APART_SECONDS
from .transaction import Row, Transaction
from .turns import OVERDUE, OpenLane, Rank, Turn, Turns
from .warm_peers import WarmPeers

WARM_MAY_OVERTAKE_SECONDS = 30.0
LEFT_FOR_ONLINE_SECONDS = 1.0
"""After so long a worker asks again for jobs of batches that were left to keep slots free."""
MOST_READ = 1024
"""So many heads of a lane are looked at to find some that may run beside others."""


_Lane = tuple[Row, LoadedModel | None]
"""A lane, and its model if the worker has it loaded."""


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
        self._turns: dict[int, Turn] = {}
        self._has_suspect: bool | None = None

    def choose(self) -> None:
        """Take the best jobs that fit, as many as were asked for and fit into one answer."""
        worker_id = self.request.worker_id
        self._peers = WarmPeers(self._tx, worker_id, self._heads.fleet)
        self._has_suspect = None
        self.jobs = list(self._best())
        chosen = {job["seq"] for job in self.jobs}
        self._refund([seq for seq in self._turns if seq not in chosen])
        self._heads.take(worker_id, self.jobs)

    def drop_lost(self, rows: Mapping[int, Row]) -> bool:
        """Keep only what others did not take or change at the same moment; say if they did."""
        own = [job for job in self.jobs if _is_same(job, rows.get(job["seq"]))]
        if len(own) == len(self.jobs):
            return False
        kept = {job["seq"] for job in own}
        lost = [job for job in self.jobs if job["seq"] not in kept]
        self._heads.lose(self.request.worker_id, lost)
        self._refund([job["seq"] for job in lost])
        self.jobs = own
        return True

    def give_back(self) -> None:
        """Choose anew."""
        self._heads.give_back(self.request.worker_id, self.jobs)
        self._refund(list(self._turns))

    def _refund(self, seqs: Iterable[int]) -> None:
        for seq in seqs:
            if (turn := self._turns.pop(seq, None)) is not None:
                self._heads.shares.refund(turn.priority, turn.key_id, turn.cost)

    def _best(self) -> Iterator[Row]:
        lanes = self._fitting_lanes()
        self._heads.read_ahead([lane["lane_id"] for lane, _ in lanes], self.request.max_jobs)
        is_one_key = len({lane["key_id"] for lane, _ in lanes}) < 2
        if is_one_key and not any(lane["is_batch"] for lane, _ in lanes):
            ranked = merge(*[self._ranked(*one) for one in lanes], key=lambda head: head[0])
            yield from self._as_many_as_go(job for _, job in ranked)
        else:
            yield from self._in_turn(lanes)

    def _fitting_lanes(self) -> list[_Lane]:
        found = []
        for lane in self._heads.lanes():
            model = self._loaded.get(ModelKey(lane["family"], lane["version"], lane["runtime"]))
            if _fits(lane, self.request, self._fit, model):
                found.append((lane, model))
        return found

    def _as_many_as_go(self, jobs: Iterable[Row]) -> Iterator[Row]:
        """What of jobs may run beside each other, fits into one answer and was asked for."""
        room, left = self.request.max_bytes, self.request.max_jobs
        for job in jobs if left else ():
            if self._must_run_apart(job):
                self._refund([job["seq"]])
                continue
            room -= job["size_bytes"]
            if room < 0 and left < self.request.max_jobs:
                return
            yield job
            left -= 1
            if not left:
                return

    def _in_turn(self, lanes: Sequence[_Lane]) -> Iterator[Row]:
        """What is taken where several keys wait, or batches: whose turn it is pays for its job."""
        opened = [
            OpenLane(lane, self._chill(lane, model), self._ranked(lane, model))
            for lane, model in lanes
        ]
        turns = Turns(self._heads.shares, opened, *self._slots(opened))

        def in_turn() -> Iterator[Row]:
            for job, turn in turns.jobs():
                self._turns[job["seq"]] = turn
                yield job

        taken = list(self._as_many_as_go(in_turn()))
        if turns.left_batches and not taken:
            self._ask_again_in(LEFT_FOR_ONLINE_SECONDS)
            self._heads.shares.held_back.add(self.request.worker_id)
        yield from taken

    def _slots(self, lanes: Sequence[OpenLane]) -> tuple[int, int]:
        """How many slots are free, and how many of these are not for batches."""
        slots = self._fit.max_concurrent_jobs
        kept = self._heads.shares.slots_kept(slots)
        if not kept or not any(lane.is_batch for lane in lanes):
            return self.request.max_jobs, 0
        return slots - self._heads.fleet.held(self.request.worker_id), kept

    def _ranked(self, lane: Row, model: LoadedModel | None) -> Iterator[tuple[Rank, Row]]:
        """A lane's jobs with their ranks, the best first, less what is left for warm workers."""
        warm, chill = model is not None, self._chill(lane, model)
        for job in self._jobs_of(lane["lane_id"]):
            if self._has_suspect and self._must_run_apart(job):
                continue
            if warm or not self._is_left(lane, job):
                yield _rank(job, self._tx.now, chill), job

    def _chill(self, lane: Row, model: LoadedModel | None) -> int:
        if model is not None:
            return 1
        return 2 if (lane["family"], lane["version"]) in self._on_disk else 3

    def _jobs_of(self, lane_id: int) -> Iterator[Row]:
        """The jobs of a lane in their order; further ones are read when they are asked for."""
        count, seen = self.request.max_jobs, 0
        jobs = self._heads.known(lane_id) or self._heads.first(lane_id, count)
        while jobs:
            yield from jobs
            last, seen = place_of(jobs[-1]), seen + len(jobs)
            if seen >= MOST_READ:
                return
            more = self._heads.first(lane_id, max(count, 2 * seen))
            jobs = [job for job in more if place_of(job) > last]

    def _must_run_apart(self, job: Row) -> bool:
        """Whether to leave a job because the worker has another suspect; notes that it gets one."""
        if not self._heads.suspects.is_one(job):
            return False
        if self._has_suspect is None:
            self._has_suspect = self._heads.suspects.has_one(self.request.worker_id)
        if self._has_suspect:
            self._ask_again_in(LEFT_TO_RUN_APART_SECONDS)
            return True
        self._has_suspect = True
        return False

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


def _rank(job: Row, now: float, chill: int) -> Rank:
    overdue = now - job["submitted_at"] >= WARM_MAY_OVERTAKE_SECONDS
    return -job["priority"], OVERDUE if overdue else chill, job["seq"]


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
