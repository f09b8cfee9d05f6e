"""Lanes: one for each combination of what jobs demand of a worker."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ..state_machine import Phase
from .engine import fields_of
from .jobs_loaded import LoadedJob
from .many import TEXT, Among
from .transaction import Transaction

_FIND = Among("SELECT lane_key, lane_id FROM lanes WHERE lane_key = ANY(:keys)", TEXT)
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


@dataclass(frozen=True, slots=True)
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


def lanes_of(tx: Transaction, demands: Iterable[Demands]) -> dict[Demands, int]:
    """Return the lanes of some demands, made if need be."""
    keys = {one: one.key for one in demands}
    known = tx.lanes
    unknown = [key for key in keys.values() if key not in known]
    if unknown:
        known.update((row["lane_key"], row["lane_id"]) for row in tx.among(_FIND, unknown))
        for one, key in sorted(keys.items(), key=lambda pair: pair[1]):
            if key not in known:
                known[key] = _add(tx, one, key)
    return {one: known[key] for one, key in keys.items()}


def _add(tx: Transaction, demands: Demands, key: str) -> int:
    row = tx.one(_ADD, {"key": key, **asdict(demands)})
    assert row is not None
    return int(row["lane_id"])


def raise_needs(tx: Transaction, loaded: LoadedJob, memory_mb: int, gpu_memory_mb: int) -> str:
    """Let a running job demand at least so much from now on, and return that in words.

    Nothing changes, and the words are empty, where it demands as much already.
    """
    told = tx.one(_DEMANDS_OF, {"seq": loaded.seq})
    assert told is not None
    demands = fields_of(told)
    raised = {
        name: need
        for name, need in (("min_memory_mb", memory_mb), ("min_gpu_memory_mb", gpu_memory_mb))
        if need > demands[name]
    }
    if not raised:
        return ""
    _move(tx, loaded, Demands(**{**demands, **raised}, measured=True))
    kinds = {"min_memory_mb": "memory", "min_gpu_memory_mb": "GPU memory"}
    return " and ".join(f"{need} MB of {kinds[name]}" for name, need in raised.items())


def _move(tx: Transaction, loaded: LoadedJob, demands: Demands) -> None:
    lane_id = lanes_of(tx, [demands])[demands]
    parameters = {
        "seq": loaded.seq,
        "lane_id": lane_id,
        "min_memory_mb": demands.min_memory_mb,
        "min_gpu_memory_mb": demands.min_gpu_memory_mb,
    }
    tx.run(_MOVE, parameters)
    for lane, change in ((loaded.lane_id, -1), (lane_id, +1)):
        tx.count(f"lane/{lane}/{loaded.priority}", Phase.RUNNING.value, change)
    loaded.lane_id = lane_id
