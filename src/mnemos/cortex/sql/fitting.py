"""What a worker can run, read from what it registered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Fit:
    """What a worker can run."""

    runtimes: frozenset[str]
    job_types: frozenset[str]
    tags: Mapping[str, str]
    max_concurrent_jobs: int

    @staticmethod
    def of(capabilities: str, tags: str) -> Fit:
        """Read a worker's capabilities and tags; the same texts are read once."""
        return _read(capabilities, tags)

    def offers(self, runtime: str, job_type: str) -> bool:
        """Say whether the worker takes such jobs; no list of job types means inference only."""
        types = self.job_types or {"inference", "batch_inference"}
        return runtime in self.runtimes and job_type in types

    def carries(self, required: Mapping[str, str]) -> bool:
        """Say whether the worker has every tag that is asked for."""
        return all(self.tags.get(name) == value for name, value in required.items())


@lru_cache(maxsize=2048)
def _read(capabilities: str, tags: str) -> Fit:
    told: dict[str, Any] = json.loads(capabilities)
    return Fit(
        frozenset(told.get("supported_runtimes", ())),
        frozenset(told.get("job_types", ())),
        json.loads(tags),
        int(told.get("max_concurrent_jobs", 1)),
    )
