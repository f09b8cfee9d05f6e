"""Which jobs a worker is given.

By priority; then what has waited long; then what the worker has loaded; then age. A job whose
model another worker has loaded is left for that one a moment (see warm_peers). Only the heads of
lanes that fit are looked at, and lanes with nothing queued are skipped over by the index, so a
claim costs the same whether ten jobs wait or ten million.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice

from ..errors import WorkerReplacedError, WorkerUnknownError
from ..records import Claimed, ClaimRequest, LeasedJob, LoadedModel, ModelKey
from .engine import LOCK, LOCK_FREE
from .fitting import Fit
from .progress import progress_of
from .queries import job_from_row
from .rows import finished_rows
from .transaction import Row, Transaction
from .transitions import JOB_COLUMNS, acquire
from .warm_peers import LEFT_TO_WARM_SECONDS, WarmPeers, load_seconds

WARM_MAY_OVERTAKE_SECONDS = 30.0
SEEN_AGAIN_SECONDS = 5.0

AGAIN_AFTER_OTHERS_SECONDS = 0.02
MAX_ROUNDS = 5

_WORKER = f"""
SELECT worker_id, instance_id, capabilities, tags, desired_state, last_seen, lost, models,
    offered_memory_mb, offered_gpu_memory_mb
FROM workers WHERE worker_id = :worker_id {LOCK}
"""  # noqa: S608  constants only
_TOUCH = "UPDATE workers SET last_seen = :now, lost = FALSE WHERE worker_id = :worker_id"
_NOTE_MODELS = "UPDATE workers SET models = :models WHERE worker_id = :worker_id"
_NOTE_OFFER = """
UPDATE workers SET offered_memory_mb = :memory_mb, offered_gpu_memory_mb = :gpu_memory_mb
WHERE worker_id = :worker_id
"""
_QUEUED_LANES = """
WITH RECURSIVE heads (lane_id) AS (
    SELECT MIN(lane_id) FROM jobs WHERE queued
    UNION ALL
    SELECT (SELECT MIN(lane_id) FROM jobs WHERE queued AND lane_id > heads.lane_id)
    FROM heads WHERE heads.lane_id IS NOT NULL
)
SELECT lanes.* FROM heads JOIN lanes ON lanes.lane_id = heads.lane_id
"""
_HEADS = f"""
SELECT {JOB_COLUMNS} FROM jobs WHERE queued AND lane_id = :lane_id
ORDER BY priority DESC, seq LIMIT :limit
"""  # noqa: S608  constants only
_LOCKED = f"""
SELECT {JOB_COLUMNS} FROM jobs WHERE seq = ANY(:seqs) AND queued ORDER BY seq {LOCK_FREE}
"""  # noqa: S608  constants only
_ANSWERED = """
SELECT job_id FROM jobs
WHERE worker_id = :worker_id AND lease_expires_at > :now AND claim_request_id = :request_id
    AND NOT renewed AND status = 'acquired'
ORDER BY seq
"""
_CLAIMED = """
SELECT jobs.*, job_inputs.input, job_inputs.runtime_config, job_inputs.metadata
FROM jobs JOIN job_inputs ON job_inputs.job_seq = jobs.seq WHERE jobs.job_id = :job_id
"""
_ALL_CLAIMED = _CLAIMED.replace("= :job_id", "= ANY(:job_ids)")


def claim(tx: Transaction, request: ClaimRequest, lease_seconds: float) -> Claimed:
    """Lease up to `max_jobs` jobs that fit. Raises WorkerUnknownError, WorkerReplacedError."""
    worker = tx.one(_WORKER, {"worker_id": request.worker_id})
    if worker is None:
        raise WorkerUnknownError(request.worker_id)
    if request.instance_id and worker["instance_id"] != request.instance_id:
        # Were it told to register, two processes of one id would take each other's jobs for ever.
        raise WorkerReplacedError(request.worker_id)
    _note(tx, worker, request)
    answered = _answered(tx, request)
    if answered:
        return Claimed(_leased(tx, answered))
    if worker["desired_state"] != "active":
        return Claimed([])
    choice = _Choice(tx, request, Fit.of(worker["capabilities"], worker["tags"]))
    chosen = choice.own_jobs()
    for job in chosen:
        acquire(tx, job, request.worker_id, request.request_id, lease_seconds)
    return Claimed(_leased(tx, chosen), choice.again_in_seconds)


def _answered(tx: Transaction, request: ClaimRequest) -> list[Row]:
    """What the same request was answered before, its worker not having heard of it yet."""
    if not request.request_id:
        return []
    asked = {
        "worker_id": request.worker_id,
        "request_id": request.request_id,
        "now": tx.now,
    }
    return tx.all(_ANSWERED, asked)


def _note(tx: Transaction, worker: Row, request: ClaimRequest) -> None:
    """Keep what the worker says about itself, where that is news."""
    worker_id = request.worker_id
    if worker["lost"] or tx.now - worker["last_seen"] >= SEEN_AGAIN_SECONDS:
        tx.run(_TOUCH, {"worker_id": worker_id, "now": tx.now})
    loaded = {model.key: model.load_seconds for model in request.models}
    if loaded != load_seconds(worker["models"]):
        tx.run(_NOTE_MODELS, {"worker_id": worker_id, "models": _models(request.models)})
    most = worker["offered_memory_mb"], worker["offered_gpu_memory_mb"]
    offer = (
        max(most[0], request.memory_available_mb),
        max(most[1], request.gpu_memory_available_mb),
    )
    if offer != most:
        told = {"worker_id": worker_id, "memory_mb": offer[0], "gpu_memory_mb": offer[1]}
        tx.run(_NOTE_OFFER, told)


def _models(models: Iterable[LoadedModel]) -> str:
    """As a heartbeat's models are kept."""
    told = [
        {
            "family": model.key.family,
            "version": model.key.version,
            "runtime": model.key.runtime,
            "load_seconds": model.load_seconds,
            "memory_mb": model.memory_mb,
            "active_jobs": model.active_jobs,
        }
        for model in models
    ]
    return json.dumps(told)


class _Choice:
    """The jobs for one claim; `again_in_seconds` is known once they were all taken from it."""

    def __init__(self, tx: Transaction, request: ClaimRequest, fit: Fit) -> None:
        self.again_in_seconds: float | None = None
        self._tx = tx
        self._request = request
        self._fit = fit
        self._loaded = {model.key: model for model in request.models}
        self._peers = WarmPeers(tx, request.worker_id)
        self._others: set[int] = set()

    def own_jobs(self) -> list[Row]:
        """The best jobs that fit and that nobody else takes or changes at the same moment.

        Where others were faster for all that were looked at, it is worth asking again soon: they
        may leave some.
        """
        if not self._tx.shared:
            return list(self._jobs())
        own: list[Row] = []
        for _ in range(MAX_ROUNDS):
            chosen = list(self._jobs())
            own = self._lock(chosen)
            if len(own) == len(chosen):
                break
            held = {job["seq"] for job in own}
            self._others.update(job["seq"] for job in chosen if job["seq"] not in held)
        if self._others and not own:
            self.again_in_seconds = AGAIN_AFTER_OTHERS_SECONDS
        return own

    def _lock(self, chosen: list[Row]) -> list[Row]:
        """Those of the jobs that are free, and still what they were chosen for, as they are now."""
        if not chosen:
            return []
        rows = self._tx.all(_LOCKED, {"seqs": [job["seq"] for job in chosen]})
        own = {(row["seq"], row["lane_id"]): row for row in rows}
        keys = [(job["seq"], job["lane_id"]) for job in chosen]
        return [own[key] for key in keys if key in own]

    def _jobs(self) -> Iterator[Row]:
        """The best jobs that fit, as many as were asked for and fit into one answer."""
        self._peers = WarmPeers(self._tx, self._request.worker_id)
        heads: list[Iterable[tuple[tuple[int, int, int], Row]]] = []
        for lane in self._tx.all(_QUEUED_LANES, {}):
            model = self._loaded.get(ModelKey(lane["family"], lane["version"], lane["runtime"]))
            if _fits(lane, self._request, self._fit, model):
                warm = model is not None
                rows = self._heads(lane) if warm else self._left_over(lane)
                heads.append([(_rank(row, self._tx.now, warm=warm), row) for row in rows])
        room = self._request.max_bytes
        ranked = merge(*heads, key=lambda head: head[0])
        for taken, (_, job) in enumerate(islice(ranked, self._request.max_jobs)):
            room -= job["size_bytes"]
            if taken and room < 0:
                return
            yield job

    def _heads(self, lane: Row, more: int = 0) -> list[Row]:
        limit = self._request.max_jobs + more + len(self._others)
        rows = self._tx.all(_HEADS, {"lane_id": lane["lane_id"], "limit": limit})
        return [row for row in rows if row["seq"] not in self._others] if self._others else rows

    def _left_over(self, lane: Row) -> list[Row]:
        """The heads of a lane, less what is left for workers that have its model loaded."""
        rows = self._heads(lane)
        if all(self._tx.now - row["available_at"] >= LEFT_TO_WARM_SECONDS for row in rows):
            return rows
        room = self._peers.room_for(lane)
        if not room:
            return rows
        rows = [row for row in self._heads(lane, more=room) if not self._is_left(lane, row)]
        return rows[: self._request.max_jobs]

    def _is_left(self, lane: Row, job: Row) -> bool:
        seconds = self._peers.seconds_to_leave(lane, job)
        if seconds <= 0:
            return False
        self.again_in_seconds = min(seconds, self.again_in_seconds or seconds)
        return True


def _rank(job: Row, now: float, *, warm: bool) -> tuple[int, int, int]:
    overdue = now - job["submitted_at"] >= WARM_MAY_OVERTAKE_SECONDS
    temperature = 0 if overdue else 1 if warm else 2
    return -job["priority"], temperature, job["seq"]


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


def _leased(tx: Transaction, jobs: Sequence[Row]) -> list[LeasedJob]:
    job_ids = [job["job_id"] for job in jobs]
    return [_leased_job(tx, row) for row in _with_inputs(tx, job_ids)]


def _with_inputs(tx: Transaction, job_ids: Sequence[str]) -> list[Row]:
    """Read jobs as they are now, in the order asked for; from a server all at once."""
    if not tx.shared or not job_ids:
        return [row for job_id in job_ids for row in tx.all(_CLAIMED, {"job_id": job_id})]
    found = {row["job_id"]: row for row in tx.all(_ALL_CLAIMED, {"job_ids": job_ids})}
    return [found[job_id] for job_id in job_ids]


def _leased_job(tx: Transaction, row: Row) -> LeasedJob:
    return LeasedJob(
        job_from_row(row),
        lease_seconds=row["lease_expires_at"] - tx.now,
        time_left_seconds=max(0.001, row["deadline_at"] - tx.now),
        rows=finished_rows(tx, row),
        progress=progress_of(tx, row),
    )
