"""The lease core with one rule taken out, by name: what its tests must notice."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType

from mnemos.cortex import lease_core

Change = tuple[str, str]
"""A piece of the core's source that occurs once, and what stands there instead."""

MUTANTS: dict[str, Change] = {
    "no fence": (
        "job.is_held and job.attempt == event.attempt and job.worker_id == event.worker_id",
        "job.is_held",
    ),
    "the worker is not compared in the fence": (
        "job.attempt == event.attempt and job.worker_id == event.worker_id\n",
        "job.attempt == event.attempt\n",
    ),
    "the attempt is not compared in the fence": (
        "return job.is_held and job.attempt == event.attempt and",
        "return job.is_held and",
    ),
    "no fence on renewals": (
        "    if not _holds(job, event):\n        return Step(job, Fence.STALE)\n    until = now",
        "    if not job.is_held:\n        return Step(job, Fence.STALE)\n    until = now",
    ),
    "no fence on chunks": (
        "    held = _holds(job, event)\n",
        "    held = job.is_held\n",
    ),
    "no fence on reports": (
        "    if not _holds(job, event):\n        return _late_report(job, event)",
        "    if not job.is_held:\n        return _late_report(job, event)",
    ),
    "no fence on releases": (
        "    if not _holds(job, event):\n        return Step(job, Fence.STALE)\n    reason =",
        "    if not job.is_held:\n        return Step(job, Fence.STALE)\n    reason =",
    ),
    "an attempt is not counted": (
        "    attempt = job.attempt + 1\n",
        "    attempt = max(1, job.attempt)\n",
    ),
    "a lease never runs out": (
        "job.lease_expires_at is None or job.lease_expires_at > now:",
        "True:",
    ),
    "a lease runs out at once": (
        "job.lease_expires_at is None or job.lease_expires_at > now:",
        "job.lease_expires_at is None:",
    ),
    "a renewal does not lengthen the lease": (
        "replace(job, lease_expires_at=until, renewed=True)",
        "replace(job, renewed=True)",
    ),
    "grace does not lengthen the lease": (
        "replace(job, lease_expires_at=until, deadline_at=deadline)",
        "replace(job, deadline_at=deadline)",
    ),
    "chunks are taken in any order": (
        "        if sequence == position:\n",
        "        if sequence >= position:\n",
    ),
    "chunks are taken again": (
        "        if sequence == position:\n",
        "        if sequence <= position:\n",
    ),
    "the next attempt goes on counting its chunks": (
        "        next_chunk=0,\n",
        "        next_chunk=job.next_chunk,\n",
    ),
    "a completion does not look whether the job shall stop": (
        "    if job.cancel_requested or event.state is JobState.CANCELLED:\n",
        "    if event.state is JobState.CANCELLED:\n",
    ),
    "a lost job that shall stop is tried again": (
        "    if job.cancel_requested:\n        return _not_again(job, end, Fence.ACCEPTED)\n",
        "",
    ),
    "retries are not charged": (
        "now + decision.delay_seconds, decision.retries_used, message)",
        "now + decision.delay_seconds, job.retries_used, message)",
    ),
    "engine deaths are not counted": (
        "engine_crashes=job.engine_crashes + 1)",
        "engine_crashes=job.engine_crashes)",
    ),
    "lost workers are not counted": (
        "lost_workers=job.lost_workers + 1)",
        "lost_workers=job.lost_workers)",
    ),
    "a job loses worker after worker": (
        "lost=job.lost_workers, most_lost=most_lost,",
        "lost=1, most_lost=most_lost,",
    ),
    "a lost worker is charged": (
        "        decision = _decide_after_loss(job, most_lost, random)\n",
        "        decision = _decide(job, code, by_nature, engine_jobs, random)\n",
    ),
    "a hand-back is charged": (
        "    again = _pending(job, now, job.retries_used, message)\n",
        "    again = _pending(job, now, job.retries_used + 1, message)\n",
    ),
    "a late completion counts although another attempt has begun": (
        "        job.state is JobState.PENDING\n        and job.attempt == event.attempt\n",
        "        job.state is JobState.PENDING\n",
    ),
    "a late completion counts while another attempt holds the job": (
        "        job.state is JobState.PENDING\n        and job.attempt == event.attempt\n",
        "        job.state not in TERMINAL\n",
    ),
    "a late completion counts whoever sends it": (
        "        and past.worker_id == event.worker_id\n    )",
        "    )",
    ),
    "what was handed back may complete": (
        "        and past.outcome is Outcome.LOST\n",
        "",
    ),
    "a retry by hand leaves old attempts their right": (
        "engine_crashes=0, void_attempts=job.attempt)",
        "engine_crashes=0)",
    ),
    "a retry by hand keeps what was lost": (
        "replace(job, lost_workers=0, engine_crashes=0",
        "replace(job, engine_crashes=0",
    ),
    "a retry by hand keeps what was charged": (
        '_pending(fresh, now, 0, "retried by hand")',
        '_pending(fresh, now, fresh.retries_used, "retried by hand")',
    ),
    "a completed job can be retried by hand": (
        "    if job.state not in RETRYABLE_BY_HAND:\n",
        "    if job.state not in TERMINAL:\n",
    ),
    "an ended job is cancelled": (
        "    if job.state in TERMINAL:\n        return Step(job, Fence.STALE)\n",
        "",
    ),
}


def mutated_source(name: str) -> str:
    """The core's source without the rule. Raises AssertionError if the core has changed there."""
    genuine = Path(lease_core.__file__).read_text()
    old, new = MUTANTS[name]
    assert genuine.count(old) == 1, f"{name}: the core has {genuine.count(old)} of {old!r}"
    return genuine.replace(old, new)


def mutant(name: str) -> AbstractContextManager[ModuleType]:
    """The core without the rule, as a module of its own beside the genuine one."""
    return _loaded(name, mutated_source(name))


def unchanged() -> AbstractContextManager[ModuleType]:
    """The core with all its rules, loaded in the same way."""
    return _loaded("unchanged", Path(lease_core.__file__).read_text())


@contextmanager
def _loaded(name: str, source: str) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_loader("mnemos.cortex._mutant_of_lease_core", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__package__ = "mnemos.cortex"
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, f"<{name}>", "exec"), module.__dict__)  # noqa: S102  our own source
        yield module
    finally:
        del sys.modules[module.__name__]
