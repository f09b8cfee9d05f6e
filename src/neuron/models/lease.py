"""What a worker and CORTEX say to each other about one attempt at a job."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from .job import JobStatus, LeasedJob, Requirements, ResumeState


class AttemptRef(NamedTuple):
    """One attempt at one job: what a lease is on."""

    job_id: str
    attempt: int


class Verdict(StrEnum):
    """What CORTEX thought of a call about one attempt."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    STALE = "stale"
    """The attempt no longer holds the job: stop working on it."""
    CANCELLED = "cancelled"
    """The attempt holds the job, and its submitter wants it stopped."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """The answer to a lease renewal."""

    verdicts: dict[AttemptRef, Verdict]
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """A running job's new state, with a sentence for whoever watches it."""

    ref: AttemptRef
    status: JobStatus
    message: str = ""
    bytes_done: int = 0
    """Of the model's files, while they are on their way."""
    bytes_total: int = 0


@dataclass(frozen=True, slots=True)
class StreamAck:
    """Chunks 0 .. next_sequence - 1 of an attempt are durable."""

    ref: AttemptRef
    next_sequence: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class ReleasedJob:
    """A job handed back unfinished, at no cost to its retries."""

    ref: AttemptRef
    reason: str
    progress: ResumeState | None = None
    needs: Requirements | None = None
    """What the job turned out to need more of than this worker has."""


@dataclass(frozen=True, slots=True)
class RefusedJob:
    """A leased job that this worker cannot even read, and why."""

    ref: AttemptRef
    message: str


@dataclass(frozen=True, slots=True)
class AcquiredJobs:
    """What a long-poll brought."""

    jobs: list[LeasedJob]
    refused: list[RefusedJob]

    @property
    def refs(self) -> list[AttemptRef]:
        """Every attempt that CORTEX now counts as this worker's."""
        return [ref_of(leased) for leased in self.jobs] + [refused.ref for refused in self.refused]


def ref_of(leased: LeasedJob) -> AttemptRef:
    """Return the attempt that `leased` is."""
    return AttemptRef(leased.job.job_id, leased.attempt)
