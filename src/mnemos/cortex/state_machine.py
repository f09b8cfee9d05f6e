"""A job's states, the only table of allowed changes, and what follows a failure.

Pure: no I/O, no clock; times and randomness are given. docs/lifecycle.md draws `TRANSITIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    """Where a job is."""

    PENDING = "pending"
    ACQUIRED = "acquired"
    LOADING_MODEL = "loading_model"
    EXECUTING = "executing"
    STREAMING = "streaming"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


class Outcome(StrEnum):
    """How one attempt at a job ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    RELEASED = "released"
    LOST = "lost"


class Phase(StrEnum):
    """States, as far as counting goes."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"


_ENDS = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.TIMEOUT})
_ENDS_OR_BACK = _ENDS | {JobState.PENDING}

TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.ACQUIRED, JobState.COMPLETED, JobState.CANCELLED}),
    JobState.ACQUIRED: _ENDS_OR_BACK
    | {JobState.LOADING_MODEL, JobState.EXECUTING, JobState.STREAMING},
    JobState.LOADING_MODEL: _ENDS_OR_BACK | {JobState.EXECUTING, JobState.STREAMING},
    JobState.EXECUTING: _ENDS_OR_BACK | {JobState.STREAMING},
    JobState.STREAMING: _ENDS_OR_BACK,
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset({JobState.PENDING}),
    JobState.CANCELLED: frozenset({JobState.PENDING}),
    JobState.TIMEOUT: frozenset({JobState.PENDING}),
}
"""Every change a job may make. Back to pending from an end is a person's retry."""

PHASES: Mapping[JobState, Phase] = {
    JobState.PENDING: Phase.PENDING,
    JobState.ACQUIRED: Phase.RUNNING,
    JobState.LOADING_MODEL: Phase.RUNNING,
    JobState.EXECUTING: Phase.RUNNING,
    JobState.STREAMING: Phase.RUNNING,
    JobState.COMPLETED: Phase.FINISHED,
    JobState.FAILED: Phase.FINISHED,
    JobState.CANCELLED: Phase.FINISHED,
    JobState.TIMEOUT: Phase.FINISHED,
}
TERMINAL = frozenset(state for state, phase in PHASES.items() if phase is Phase.FINISHED)
ACTIVE = frozenset(state for state, phase in PHASES.items() if phase is Phase.RUNNING)
RETRYABLE_BY_HAND = frozenset(state for state in TERMINAL if JobState.PENDING in TRANSITIONS[state])


class TransitionError(Exception):
    """A change that the table does not allow."""

    def __init__(self, source: JobState, target: JobState) -> None:
        super().__init__(f"A job cannot go from {source} to {target}.")
        self.source = source
        self.target = target


def check_transition(source: JobState, target: JobState) -> None:
    """Raise TransitionError unless a job may go from `source` to `target`."""
    if target not in TRANSITIONS[source]:
        raise TransitionError(source, target)


def mermaid() -> str:
    """The table as a Mermaid state diagram, so that the drawing in docs/ cannot drift."""
    return "\n".join(["stateDiagram-v2", *_mermaid_lines()]) + "\n"


def _mermaid_lines() -> Iterator[str]:
    yield f"    [*] --> {JobState.PENDING}"
    for source in JobState:
        for target in JobState:
            if target in TRANSITIONS[source]:
                yield f"    {source} --> {target}"
    for state in JobState:
        if state in TERMINAL:
            yield f"    {state} --> [*]"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon an attempt that failed is followed by another."""

    max_retries: int = 3
    initial_backoff_seconds: float = 1.0
    max_backoff_seconds: float = 300.0
    retryable_codes: tuple[str, ...] = ()
    """Empty: what the worker calls retryable is retried, and a timeout is not."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a job becomes after an attempt that did not complete it."""

    state: JobState
    delay_seconds: float = 0.0
    retries_used: int = 0
    poisonous: bool = False
    """The job itself kills engines or workers; it is not to be tried again."""


def backoff_seconds(policy: RetryPolicy, retries_used: int, random: Callable[[], float]) -> float:
    """Full jitter over initial * 2**n, at most the policy's cap. `random` gives 0 ≤ x < 1."""
    exponent = min(retries_used, 63)
    ceiling = min(policy.max_backoff_seconds, policy.initial_backoff_seconds * 2.0**exponent)
    return ceiling * random()


def is_retryable(policy: RetryPolicy, code: str, *, by_nature: bool) -> bool:
    """Say whether the policy lets a failure with this code be tried again.

    A lost worker says nothing about the job, so it is always worth a retry; the job's own timeout
    is one only if the policy names it.
    """
    if code == "worker_lost":
        return True
    if policy.retryable_codes:
        return code in policy.retryable_codes
    return by_nature and code != "timeout"


def decide_after_failure(
    policy: RetryPolicy,
    retries_used: int,
    code: str,
    *,
    by_nature: bool,
    random: Callable[[], float],
) -> Decision:
    """Say what becomes of a job whose attempt failed, was lost or ran out of time."""
    if is_retryable(policy, code, by_nature=by_nature) and retries_used < policy.max_retries:
        delay = backoff_seconds(policy, retries_used, random)
        return Decision(JobState.PENDING, delay, retries_used + 1)
    end = JobState.TIMEOUT if code == "timeout" else JobState.FAILED
    return Decision(end, retries_used=retries_used)


MAX_LOST_WORKERS = 3
"""So many workers lost under a job are taken for its doing."""
APART_SECONDS = 30.0
"""A job that kills its worker has mostly done so by then."""


def runs_apart(lost_workers: int, most_lost: int) -> bool:
    """Say whether one more lost worker would end a job for good.

    A worker is given one such job, and no other for APART_SECONDS or until the first has ended:
    so a job that kills workers is found out by the loss of one on which nobody else has come to
    the end of its tether.
    """
    return lost_workers > 0 and lost_workers + 1 >= most_lost


def decide_after_lost_worker(
    policy: RetryPolicy,
    retries_used: int,
    *,
    lost: int,
    most_lost: int,
    random: Callable[[], float],
) -> Decision:
    """Say what becomes of a job whose worker was lost; `lost` of them by now, this one included.

    The loss says little about the job, and costs no retry. A job that may not be retried at all
    is not run twice for that either.
    """
    if policy.max_retries == 0 or lost >= most_lost:
        poisonous = policy.max_retries > 0
        return Decision(JobState.FAILED, retries_used=retries_used, poisonous=poisonous)
    return Decision(JobState.PENDING, backoff_seconds(policy, lost - 1, random), retries_used)


POISON_DEATHS = 2
"""From so many engine deaths on a job runs alone, and one more death is its own doing."""


def decide_after_engine_death(
    policy: RetryPolicy,
    retries_used: int,
    *,
    deaths: int,
    engine_jobs: int,
    by_nature: bool,
    random: Callable[[], float],
) -> Decision:
    """Say what becomes of a job whose engine died; `deaths` of them by now, this one included.

    `engine_jobs` ran in the engine, this one included; 0 when the worker did not tell. A job that
    was alone when an engine died under it again is poison. One of several is not charged for what
    a neighbour may have done, as often as a job can share an engine at all: a worker that went on
    mixing it with others would otherwise try it for ever.
    """
    if engine_jobs == 1 and deaths >= POISON_DEATHS:
        return Decision(JobState.FAILED, retries_used=retries_used, poisonous=True)
    may_retry = is_retryable(policy, "engine_crashed", by_nature=by_nature)
    if engine_jobs > 1 and deaths <= POISON_DEATHS and may_retry and policy.max_retries > 0:
        return Decision(JobState.PENDING, backoff_seconds(policy, 0, random), retries_used)
    return decide_after_failure(
        policy, retries_used, "engine_crashed", by_nature=by_nature, random=random
    )
