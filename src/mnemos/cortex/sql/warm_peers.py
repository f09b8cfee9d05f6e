"""Which queued jobs are left for a moment to another worker that has their model loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..records import ModelKey
from .fitting import Fit
from .transaction import Row, Transaction

LEFT_TO_WARM_SECONDS = 5.0
"""A job is never left longer than this, nor longer than its model took to load."""

_PEERS = """
SELECT worker_id, capabilities, tags, models, offered_memory_mb, offered_gpu_memory_mb
FROM workers
WHERE NOT lost AND desired_state = 'active' AND status NOT IN ('shutting_down', 'error')
    AND models != '[]'
"""
_HELD = """
SELECT COUNT(*) AS held FROM attempts WHERE worker_id = :worker_id AND ended_at IS NULL
"""
_LAST_HOLDER = """
SELECT worker_id FROM attempts WHERE job_seq = :seq AND attempt = :attempt
"""


@dataclass(frozen=True, slots=True)
class _Peer:
    worker_id: str
    fit: Fit
    load_seconds: Mapping[ModelKey, float]
    memory_mb: int
    gpu_memory_mb: int


class WarmFleet:
    """The workers that have models loaded, for all claims of one transaction.

    They are read when they are first asked for, and what each holds is counted then. `just_taken`
    counts what workers were given in this transaction and what is not written yet.
    """

    def __init__(self, tx: Transaction, just_taken: Mapping[str, int]) -> None:
        self._tx = tx
        self._just_taken = just_taken
        self._peers: list[_Peer] | None = None
        self._held: dict[str, int] = {}

    def peers_of(self, worker_id: str) -> list[_Peer]:
        """All but one worker."""
        if self._peers is None:
            self._peers = [_read_peer(row) for row in self._tx.all(_PEERS, {})]
        return [peer for peer in self._peers if peer.worker_id != worker_id]

    def held(self, worker_id: str) -> int:
        """How many jobs a worker has."""
        if worker_id not in self._held:
            row = self._tx.one(_HELD, {"worker_id": worker_id})
            assert row is not None
            self._held[worker_id] = int(row["held"])
        return self._held[worker_id] + self._just_taken.get(worker_id, 0)

    def free_slots(self, peer: _Peer) -> int:
        """How many jobs more a worker takes."""
        return max(0, peer.fit.max_concurrent_jobs - self.held(peer.worker_id))


class WarmPeers:
    """The other workers that have models loaded, seen from one claim.

    Each job that is left takes one of the free slots of the worker it is left for, so what is more
    than those can hold goes to whoever asks.
    """

    def __init__(self, tx: Transaction, worker_id: str, fleet: WarmFleet) -> None:
        self._tx = tx
        self._worker_id = worker_id
        self._fleet = fleet
        self._peers: list[_Peer] | None = None
        self._free: dict[str, int] = {}

    def seconds_to_leave(self, lane: Row, job: Row) -> float:
        """How long a job of the lane is still left for others; 0 when anyone may have it."""
        waited = self._tx.now - float(job["available_at"])
        if waited >= LEFT_TO_WARM_SECONDS:
            return 0.0
        for peer in self._fitting(lane):
            load_seconds = peer.load_seconds[_model_of(lane)]
            left = min(LEFT_TO_WARM_SECONDS, load_seconds) - waited
            free = self._free_slots(peer)
            if left > 0 and free and not self._has_just_lost(job, peer):
                self._free[peer.worker_id] = free - 1
                return left
        return 0.0

    def _fitting(self, lane: Row) -> list[_Peer]:
        if self._peers is None:
            self._peers = self._fleet.peers_of(self._worker_id)
        key = _model_of(lane)
        return [peer for peer in self._peers if key in peer.load_seconds and _may_take(peer, lane)]

    def _free_slots(self, peer: _Peer) -> int:
        if peer.worker_id not in self._free:
            self._free[peer.worker_id] = self._fleet.free_slots(peer)
        return self._free[peer.worker_id]

    def _has_just_lost(self, job: Row, peer: _Peer) -> bool:
        """A worker that gave a job back, or failed at it, has no claim on the next attempt."""
        if not job["attempt"]:
            return False
        last = self._tx.one(_LAST_HOLDER, {"seq": job["seq"], "attempt": job["attempt"]})
        return last is not None and last["worker_id"] == peer.worker_id


def _read_peer(row: Row) -> _Peer:
    fit = Fit.of(row["capabilities"], row["tags"])
    return _Peer(
        row["worker_id"],
        fit,
        load_seconds(row["models"]),
        memory_mb=row["offered_memory_mb"],
        gpu_memory_mb=row["offered_gpu_memory_mb"],
    )


def _may_take(peer: _Peer, lane: Row) -> bool:
    """Whether the peer could run the lane's jobs, by all that it ever offered."""
    if not peer.fit.offers(lane["runtime"], lane["job_type"]):
        return False
    if not peer.fit.carries(json.loads(lane["tags"])):
        return False
    needs = int(lane["min_memory_mb"]), int(lane["min_gpu_memory_mb"])
    has_room = needs[0] <= peer.memory_mb and needs[1] <= peer.gpu_memory_mb
    return has_room or not lane["measured"]


def _model_of(lane: Row) -> ModelKey:
    return ModelKey(lane["family"], lane["version"], lane["runtime"])


@lru_cache(maxsize=2048)
def load_seconds(models: str) -> Mapping[ModelKey, float]:
    """Read how long each of a worker's loaded models took to load, from the worker's row."""
    told: list[dict[str, Any]] = json.loads(models)
    return {
        ModelKey(one["family"], one["version"], one["runtime"]): float(one.get("load_seconds", 0))
        for one in told
    }
