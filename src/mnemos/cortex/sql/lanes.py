"""Lanes: one for each combination of what jobs demand of a worker."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ..state_machine import Phase
from .engine import fields_of
from .transaction import Row, Transaction

_FIND = "SELECT lane_id FROM lanes WHERE lane_key = :key"
_ADD = """
INSERT INTO lanes (lane_key, runtime, job_type, family, version, min_memory_mb,
    min_gpu_memory_mb, tags, measured)
VALUES (:key, :runtime, :job_type, :family, :version, :min_memory_mb, :min_gpu_memory_mb, :tags,
    :measured)
ON CONFLICT (lane_key) DO UPDATE SET runtime = excluded.runtime
RETURNING lane_id
"""
_DEMANDS_OF = """
SELECT runtime, job_type, family, version, min_memory_mb, min_gpu_memory_mb, tags FROM jobs
WHERE seq = :seq
"""
_MOVE = """
UPDATE jobs SET lane_id = :lane_id, min_memory_mb = :min_memory_mb,
    min_gpu_memory_mb = :min_gpu_memory_mb
WHERE seq = :seq
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What a job demands; `tags` is sorted JSON text.

    `measured` says that the memory is what the job turned out to need, model included.
    """

    runtime: str
    job_type: str
    family: str
    version: str
    min_memory_mb: int
    min_gpu_memory_mb: int
    tags: str
    measured: bool = False

    @property
    def key(self) -> str:
        """What tells the lane from others."""
        told = list(asdict(self).values())
        return json.dumps(told if self.measured else told[:-1])


def lane_of(tx: Transaction, demands: Demands) -> int:
    """Return the lane of some demands, made if need be."""
    key = demands.key
    row = tx.one(_FIND, {"key": key}) or tx.one(_ADD, {"key": key, **asdict(demands)})
    assert row is not None
    return int(row["lane_id"])


def raise_needs(tx: Transaction, job: Row, memory_mb: int, gpu_memory_mb: int) -> str:
    """Let a running job demand at least so much from now on, and return that in words.

    Nothing changes, and the words are empty, where it demands as much already. The caller's row
    is out of date afterwards.
    """
    told = tx.one(_DEMANDS_OF, {"seq": job["seq"]})
    assert told is not None
    demands = fields_of(told)
    raised = {
        name: need
        for name, need in (("min_memory_mb", memory_mb), ("min_gpu_memory_mb", gpu_memory_mb))
        if need > demands[name]
    }
    if not raised:
        return ""
    _move(tx, job, Demands(**{**demands, **raised}, measured=True))
    kinds = {"min_memory_mb": "memory", "min_gpu_memory_mb": "GPU memory"}
    return " and ".join(f"{need} MB of {kinds[name]}" for name, need in raised.items())


def _move(tx: Transaction, job: Row, demands: Demands) -> None:
    lane_id = lane_of(tx, demands)
    parameters = {
        "seq": job["seq"],
        "lane_id": lane_id,
        "min_memory_mb": demands.min_memory_mb,
        "min_gpu_memory_mb": demands.min_gpu_memory_mb,
    }
    tx.run(_MOVE, parameters)
    for lane, change in ((job["lane_id"], -1), (lane_id, +1)):
        tx.count(f"lane/{lane}/{job['priority']}", Phase.RUNNING.value, change)
