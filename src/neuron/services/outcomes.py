"""How one attempt at a job ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..errors import NeuronError
from ..models.job import JobOutput, JobStatus, Requirements


class StopReason(StrEnum):
    """Why an attempt ends before its job does."""

    CANCELLED = "cancelled"
    STALE = "stale"
    LEASE_EXPIRED = "lease_expired"
    HANDED_BACK = "handed_back"


@dataclass(frozen=True, slots=True)
class Ended:
    """The attempt has a result to report."""

    status: JobStatus
    output: JobOutput | None = None
    error: NeuronError | None = None


@dataclass(frozen=True, slots=True)
class HandedBack:
    """Another attempt shall do it; this one costs no retry."""

    reason: str
    needs: Requirements | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """The job is not ours any more: nothing to say."""


Outcome = Ended | HandedBack | Dropped


def label_of(outcome: Outcome) -> str:
    """Return the metric label of an outcome."""
    match outcome:
        case Ended():
            return outcome.status.value
        case HandedBack():
            return "released"
        case Dropped():
            return "stale"
