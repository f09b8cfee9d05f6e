"""Lanes: one for each combination of what jobs demand of a worker, and of whose they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..state_machine import Phase
from .engine import fields_of
from .jobs_loaded import LoadedJob
from .many import TEXT, Among
from .transaction import Transaction

_FIND = Among("SELECT lane_key, lane_id FROM lanes WHERE lane_key = ANY(:keys)", TEXT)
_ADD = """
INSERT INTO lanes (lane_key, runtime, job_type, family, version, min_memory_mb,
    min_gpu_memory_mb, tags, measured, key_id, is_batch)
VALUES (:key, :runtime, :job_type, :family, :version, :min_memory_mb, :min_gpu_memory_mb, :tags,
    :measured, :key_id, :is_batch)
ON CONFLICT (lane_key) DO UPDATE SET runtime = excluded.runtime
RETURNING lane_id
"""
_DEMANDS_OF = """
SELECT jobs.runtime, jobs.job_type, jobs.family, jobs.version, jobs.min_memory_mb,
    jobs.min_gpu_memory_mb, jobs.tags, lanes.key_id, lanes.is_batch
FROM jobs JOIN lanes ON lanes.lane_id = jobs.lane_id WHERE jobs.seq = :seq
"""
_MOVE = """
UPDATE jobs SET lane_id = :lane_id, min_memory_mb = :min_memory_mb,
    min_gpu_memory_mb = :min_gpu_memory_mb
WHERE seq = :seq
"""


MAX_KNOWN = 10_000
"""So many lanes are remembered; others are looked up each time."""


class Demands(NamedTuple):
    """What a job demands, and whose it is; `tags` is sorted JSON text.

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
    key_id: str = ""
    is_batch: bool = False

    @property
    def key(self) -> str:
        """What tells the lane from others; lanes of nobody have the keys that they always had."""
        if self.key_id or self.is_batch:
            return json.dumps(self)
        return json.dumps(self[:8] if self.measured else self[:7])


def lanes_of(tx: Transaction, demands: Iterable[Demands]) -> Mapping[tuple[Any, ...], int]:
    """Return the lanes of some demands, made if need be."""
    known = tx.lanes
    unknown = {one for one in demands if one not in known}
    if not unknown:
        return known
    found = _found(tx, unknown)
    if len(known) > MAX_KNOWN:
        return {**known, **found}
    known.update(found)
    return known


def _found(tx: Transaction, demands: Iterable[Demands]) -> dict[tuple[Any, ...], int]:
    keys = {one: one.key for one in demands}
    found = {row["lane_key"]: row["lane_id"] for row in tx.among(_FIND, keys.values())}
    return {
        one: found[key] if key in found else _add(tx, one, key)
        for one, key in sorted(keys.items(), key=lambda pair: pair[1])
    }


def _add(tx: Transaction, demands: Demands, key: str) -> int:
    row = tx.one(_ADD, {"key": key, **demands._asdict()})
    assert row is not None
    return int(row["lane_id"])


def raise_needs(tx: Transaction, loaded: LoadedJob, memory_mb: int, gpu_memory_mb: int) -> str:
    """Let a running job demand at least so much from now on, and return that in words.

    Nothing changes, and the words are empty, where it demands as much already.
    """
    told = tx.one(_DEMANDS_OF, {"seq": loaded.seq})
    assert told is not None
    demands = fields_of(told)
    demands["is_batch"] = bool(demands["is_batch"])
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
