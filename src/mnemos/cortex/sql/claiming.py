"""Which jobs a worker is given.

By priority; then what has waited long; then what the worker has loaded; then age. Only the heads
of lanes that fit are looked at, and lanes with nothing queued are skipped over by the index, so a
claim costs the same whether ten jobs wait or ten million.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any

from ..errors import WorkerReplacedError, WorkerUnknownError
from ..records import ClaimRequest, LeasedJob, ModelKey
from .queries import job_from_row
from .transaction import Row, Transaction
from .transitions import JOB_COLUMNS, acquire

WARM_MAY_OVERTAKE_SECONDS = 30.0
SEEN_AGAIN_SECONDS = 5.0

_WORKER = """
SELECT worker_id, instance_id, capabilities, tags, desired_state, last_seen, lost FROM workers
WHERE worker_id = :worker_id
"""
_TOUCH = "UPDATE workers SET last_seen = :now, lost = FALSE WHERE worker_id = :worker_id"
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


@dataclass(frozen=True, slots=True)
class Fit:
    """What a worker can run, read once from what it registered."""

    runtimes: frozenset[str]
    job_types: frozenset[str]
    tags: Mapping[str, str]

    @classmethod
    def of(cls, capabilities: str, tags: str) -> Fit:
        """Read a worker's capabilities and tags."""
        told: dict[str, Any] = json.loads(capabilities)
        runtimes = frozenset(told.get("supported_runtimes", ()))
        return cls(runtimes, frozenset(told.get("job_types", ())), json.loads(tags))

    def offers(self, runtime: str, job_type: str) -> bool:
        """Say whether the worker takes such jobs; no list of job types means inference only."""
        types = self.job_types or {"inference", "batch_inference"}
        return runtime in self.runtimes and job_type in types

    def carries(self, required: Mapping[str, str]) -> bool:
        """Say whether the worker has every tag that is asked for."""
        return all(self.tags.get(name) == value for name, value in required.items())


def claim(tx: Transaction, request: ClaimRequest, lease_seconds: float) -> list[LeasedJob]:
    """Lease up to `max_jobs` jobs that fit. Raises WorkerUnknownError, WorkerReplacedError."""
    worker = tx.one(_WORKER, {"worker_id": request.worker_id})
    if worker is None:
        raise WorkerUnknownError(request.worker_id)
    if request.instance_id and worker["instance_id"] != request.instance_id:
        # Were it told to register, two processes of one id would take each other's jobs for ever.
        raise WorkerReplacedError(request.worker_id)
    if worker["lost"] or tx.now - worker["last_seen"] >= SEEN_AGAIN_SECONDS:
        tx.run(_TOUCH, {"worker_id": request.worker_id, "now": tx.now})
    if request.request_id:
        asked = {
            "worker_id": request.worker_id,
            "request_id": request.request_id,
            "now": tx.now,
        }
        answered = tx.all(_ANSWERED, asked)
        if answered:
            return [_leased(tx, row["job_id"]) for row in answered]
    if worker["desired_state"] != "active":
        return []
    fit = Fit.of(worker["capabilities"], worker["tags"])
    chosen = list(_choose(tx, request, fit))
    for job in chosen:
        acquire(tx, job, request.worker_id, request.request_id, lease_seconds)
    return [_leased(tx, job["job_id"]) for job in chosen]


def _choose(tx: Transaction, request: ClaimRequest, fit: Fit) -> Iterator[Row]:
    heads: list[Iterable[tuple[tuple[int, int, int], Row]]] = []
    for lane in tx.all(_QUEUED_LANES, {}):
        warm = ModelKey(lane["family"], lane["version"], lane["runtime"]) in request.warm
        if _fits(lane, request, fit, warm=warm):
            rows = tx.all(_HEADS, {"lane_id": lane["lane_id"], "limit": request.max_jobs})
            heads.append([(_rank(row, tx.now, warm=warm), row) for row in rows])
    room = request.max_bytes
    ranked = merge(*heads, key=lambda head: head[0])
    for taken, (_, job) in enumerate(islice(ranked, request.max_jobs)):
        room -= job["size_bytes"]
        if taken and room < 0:
            return
        yield job


def _rank(job: Row, now: float, *, warm: bool) -> tuple[int, int, int]:
    overdue = now - job["submitted_at"] >= WARM_MAY_OVERTAKE_SECONDS
    temperature = 0 if overdue else 1 if warm else 2
    return -job["priority"], temperature, job["seq"]


def _fits(lane: Row, request: ClaimRequest, fit: Fit, *, warm: bool) -> bool:
    if not fit.offers(lane["runtime"], lane["job_type"]):
        return False
    if not fit.carries(json.loads(lane["tags"])):
        return False
    return warm or (
        lane["min_memory_mb"] <= request.memory_available_mb
        and lane["min_gpu_memory_mb"] <= request.gpu_memory_available_mb
    )


def _leased(tx: Transaction, job_id: str) -> LeasedJob:
    row = tx.one(_CLAIMED, {"job_id": job_id})
    assert row is not None
    return LeasedJob(
        job_from_row(row),
        lease_seconds=row["lease_expires_at"] - tx.now,
        time_left_seconds=max(0.001, row["deadline_at"] - tx.now),
    )
