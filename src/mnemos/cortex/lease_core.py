"""What becomes of a job at each event: claims, leases, reports, retries, streams. Pure.

No I/O, no clock: `step` is given what is known of a job, an event and the time, and says what the
job is from then on, what its caller is told and what its log gains. Stores carry that out in the
transaction in which they read the job, and decide nothing themselves. `state_machine` holds the
table of states and the arithmetic of retries; docs/lifecycle.md says it in words, docs/model
checks the rules in all orders of events.

Fencing: whoever claims a job gets a new attempt number; what workers say counts only for the
attempt that holds the job (the fencing tokens of Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from operator import attrgetter
from typing import Any, TypeAlias

from .frozen import frozen
from .records import Fence
from .state_machine import (
    ACTIVE,
    MAX_LOST_WORKERS,
    RETRYABLE_BY_HAND,
    TERMINAL,
    TRANSITIONS,
    Decision,
    JobState,
    Outcome,
    RetryPolicy,
    check_transition,
    decide_after_engine_death,
    decide_after_failure,
    decide_after_lost_worker,
)

Random = Callable[[], float]

CANCELLED_TEXT = "The job was cancelled."

_DEFAULT_POLICY = RetryPolicy()


# ---------------------------------------------------------------- what is known of a job


@frozen(kw_only=True)
class Job:
    """What decides about a job. Times are seconds of the store's clock."""

    state: JobState = JobState.PENDING
    attempt: int = 0
    """Of the attempt that holds the job, or held it last: the fencing token."""
    worker_id: str | None = None
    """Who holds the job; of an ended one, who held it last; None while it is pending."""
    renewed: bool = False
    """Whether its worker has been heard since the claim: the claim's answer arrived."""
    cancel_requested: bool = False
    next_chunk: int = 0
    """How many chunks of the attempt are in the log."""
    available_at: float = 0.0
    """A pending job is not claimed before."""
    lease_expires_at: float | None = None
    deadline_at: float | None = None
    """When the attempt's timeout is over."""
    retries_used: int = 0
    engine_crashes: int = 0
    lost_workers: int = 0
    """How many workers were lost while they held it."""
    void_attempts: int = 0
    """Attempts up to this one count no more: a person had the job tried anew."""
    status_message: str | None = None
    error_code: str | None = None
    error: str | None = None
    error_retryable: bool | None = None
    timeout_seconds: float = 300.0
    policy: RetryPolicy = _DEFAULT_POLICY
    streams: bool = False
    """Whether its first chunk makes it a `streaming` one: somebody reads along."""

    @property
    def is_held(self) -> bool:
        """Whether an attempt holds the job."""
        return self.state in ACTIVE


@frozen()
class PastAttempt:
    """How an attempt ended that holds its job no more."""

    worker_id: str
    outcome: Outcome
    reported: bool
    """Whether its own worker said so."""


_NAMES = tuple(Job.__dataclass_fields__)
_values_of = attrgetter(*_NAMES)


def replace(job: Job, **changes: Any) -> Job:
    """The job with some values changed; twice as quick as the function for any dataclass."""
    return Job(**{**dict(zip(_NAMES, _values_of(job), strict=True)), **changes})


# ---------------------------------------------------------------- what happens to it


@frozen()
class Claim:
    """A worker takes the job; `begins_again` says that what readers have of it is void."""

    worker_id: str
    lease_seconds: float
    begins_again: bool = False


@frozen()
class _FromWorker:
    worker_id: str
    attempt: int


@frozen()
class Renew(_FromWorker):
    """Its worker says that it goes on."""

    lease_seconds: float


@frozen()
class Say(_FromWorker):
    """Its worker says where it is."""

    state: JobState
    message: str = ""


@frozen()
class Append(_FromWorker):
    """Chunks for its log, by their numbers within the attempt."""

    sequences: Sequence[int]
    past: PastAttempt | None = None
    """Of this attempt, where it does not hold the job."""


@frozen(kw_only=True)
class Report(_FromWorker):
    """Its worker says how the attempt ended."""

    state: JobState
    error_code: str = "internal"
    error: str = ""
    retryable: bool = False
    engine_jobs: int = 0
    past: PastAttempt | None = None
    """Of this attempt, where it does not hold the job."""


@frozen()
class Release(_FromWorker):
    """Its worker hands it back; `remark` is added to the reason."""

    reason: str = ""
    remark: str = ""


@frozen()
class Suspect:
    """Its worker may be gone: it has `seconds` to be heard."""

    seconds: float


@frozen()
class Grace:
    """CORTEX was away: a whole lease for everybody to be heard again, and to report."""

    lease_seconds: float


@frozen()
class LeaseCheck:
    """Is its lease over? A job that lost `most_lost` workers by then is not tried again."""

    most_lost: int = MAX_LOST_WORKERS


@frozen()
class DeadlineCheck:
    """Is its timeout over, and its worker has had `grace_seconds` to say so?"""

    grace_seconds: float


@frozen()
class WorkerGone:
    """Its worker is known to be gone; a job that lost `most_lost` by then is not tried again."""

    reason: str
    most_lost: int = MAX_LOST_WORKERS


@frozen()
class Cancel:
    """Its submitter wants it stopped."""


@frozen()
class RetryByHand:
    """A person wants it tried anew."""


Event: TypeAlias = (
    Claim
    | Renew
    | Say
    | Append
    | Report
    | Release
    | Suspect
    | Grace
    | LeaseCheck
    | DeadlineCheck
    | WorkerGone
    | Cancel
    | RetryByHand
)


# ---------------------------------------------------------------- what follows


class Keep(Enum):
    """What of a report's output is stored."""

    NOTHING = 0
    PARTIAL = 1
    """If there is any: what the attempt had got to."""
    WHOLE = 2


@frozen()
class AttemptEnd:
    """How the job's present attempt ends; `revised` says that it had been given up before."""

    outcome: Outcome
    reported: bool = False
    error_code: str | None = None
    error: str | None = None
    revised: bool = False


@frozen()
class StateLine:
    """A line of the log: the job came to a state, or there is news of it."""

    state: JobState
    attempt: int
    worker_id: str | None
    message: str = ""


@frozen()
class RestartLine:
    """A line of the log: the text before it is void."""

    attempt: int
    reason: str


@frozen()
class Step:
    """What an event does to a job. One that changes nothing leaves `job` the very same object."""

    job: Job
    verdict: Fence = Fence.ACCEPTED
    """What its caller is told."""
    lines: tuple[StateLine | RestartLine, ...] = ()
    """What the log gains, in this order; chunks come behind."""
    ended: AttemptEnd | None = None
    kept: tuple[int, ...] = ()
    """Which of an Append's chunks go into the log, by their places in it."""
    keep: Keep = Keep.NOTHING
    forgets: bool = False
    """A result stored before is dropped."""


def step(job: Job, event: Event, *, now: float, random: Random) -> Step:
    """Say what an event does to a job; `random` gives 0 ≤ x < 1, for back-offs.

    Raises:
        TransitionError: a claim of a job that is not pending.
    """
    return _STEPS[type(event)](job, event, now, random)


def _claim(job: Job, event: Claim, now: float, random: Random) -> Step:
    check_transition(job.state, JobState.ACQUIRED)
    attempt = job.attempt + 1
    taken = replace(
        job,
        state=JobState.ACQUIRED,
        attempt=attempt,
        worker_id=event.worker_id,
        renewed=False,
        next_chunk=0,
        status_message=None,
        lease_expires_at=now + event.lease_seconds,
        deadline_at=now + job.timeout_seconds,
    )
    lines: list[StateLine | RestartLine] = [_line(taken)]
    if event.begins_again:
        reason = job.status_message or "the attempt before was given up"
        lines.insert(0, RestartLine(attempt, reason))
    return Step(taken, lines=tuple(lines))


def _renew(job: Job, event: Renew, now: float, random: Random) -> Step:
    if not _holds(job, event):
        return Step(job, Fence.STALE)
    until = now + event.lease_seconds
    return Step(replace(job, lease_expires_at=until, renewed=True), _going_on(job))


def _say(job: Job, event: Say, now: float, random: Random) -> Step:
    """Move an attempt forward; what arrives late and would move it back changes nothing."""
    if not _holds(job, event):
        return Step(job, Fence.STALE)
    heard = job if job.renewed else replace(job, renewed=True)
    verdict = _going_on(job)
    if not _is_news(job, event):
        return Step(heard, Fence.DUPLICATE if verdict is Fence.ACCEPTED else verdict)
    moved = _forward(heard, event.state, event.message)
    return Step(moved, verdict, (_line(moved, event.message),))


def _is_news(job: Job, event: Say) -> bool:
    if event.state is job.state:
        return bool(event.message) and event.message != job.status_message
    return event.state in ACTIVE and event.state in TRANSITIONS[job.state]


def _forward(job: Job, to: JobState, message: str) -> Job:
    if to is not job.state:
        check_transition(job.state, to)
    return replace(job, state=to, status_message=message or None)


def _append(job: Job, event: Append, now: float, random: Random) -> Step:
    """Take chunks in their order, each once; what is not the next one is passed over."""
    held = _holds(job, event)
    if not held and not _was_given_up(job, event, event.past):
        return Step(job, Fence.STALE)
    position, kept = job.next_chunk, []
    for place, sequence in enumerate(event.sequences):
        if sequence == position:
            kept.append(place)
            position += 1
    verdict = _going_on(job)
    if not kept:
        return Step(job, verdict)
    longer = replace(job, next_chunk=position, renewed=True)
    lines: tuple[StateLine, ...] = ()
    if held and job.next_chunk == 0 and job.streams and job.state is not JobState.STREAMING:
        longer = _forward(longer, JobState.STREAMING, "")
        lines = (_line(longer),)
    return Step(longer, verdict, lines, kept=tuple(kept))


def _report(job: Job, event: Report, now: float, random: Random) -> Step:
    """End an attempt; exactly one report of a job's completion is ever accepted."""
    if not _holds(job, event):
        return _late_report(job, event)
    if job.cancel_requested or event.state is JobState.CANCELLED:
        # A completion that comes after its cancel is not what the submitter was promised.
        keep = Keep.NOTHING if event.state is JobState.COMPLETED else Keep.PARTIAL
        return _cancelled(job, event.error or CANCELLED_TEXT, keep)
    if event.state is JobState.COMPLETED:
        return _completed(job, revised=False)
    timed_out = event.state is JobState.TIMEOUT
    return _fail(
        job,
        now,
        random,
        outcome=Outcome.TIMEOUT if timed_out else Outcome.FAILED,
        code="timeout" if timed_out else event.error_code,
        error=event.error,
        by_nature=event.retryable,
        reported=True,
        engine_jobs=event.engine_jobs,
    )


def _late_report(job: Job, event: Report) -> Step:
    past = event.past
    if past is not None and past.reported and past.worker_id == event.worker_id:
        return Step(job, Fence.DUPLICATE)
    if event.state is JobState.COMPLETED and _was_given_up(job, event, past):
        return _completed(replace(job, worker_id=event.worker_id), revised=True)
    return Step(job, Fence.STALE)


def _completed(job: Job, *, revised: bool) -> Step:
    done = _ended(job, JobState.COMPLETED)
    end = AttemptEnd(Outcome.COMPLETED, reported=True, revised=revised)
    return Step(done, lines=(_line(done),), ended=end, keep=Keep.WHOLE)


def _cancelled(job: Job, error: str, keep: Keep) -> Step:
    end = AttemptEnd(Outcome.CANCELLED, True, "cancelled", error)
    done = _ended(job, JobState.CANCELLED, "cancelled", error)
    return Step(done, lines=(_line(done, error),), ended=end, keep=keep)


def _release(job: Job, event: Release, now: float, random: Random) -> Step:
    """Give a job back at once; no retry is charged."""
    if not _holds(job, event):
        return Step(job, Fence.STALE)
    reason = event.reason or "the worker handed the job back"
    end = AttemptEnd(Outcome.RELEASED, error=reason)
    if job.cancel_requested:
        return _not_again(job, end, Fence.CANCELLED)
    message = f"attempt {job.attempt} was handed back: {reason}{event.remark}"
    again = _pending(job, now, job.retries_used, message)
    return Step(again, lines=(_line(again, message),), ended=end)


def _suspect(job: Job, event: Suspect, now: float, random: Random) -> Step:
    until = now + event.seconds
    if not job.is_held or job.lease_expires_at is None or job.lease_expires_at <= until:
        return Step(job)
    return Step(replace(job, lease_expires_at=until))


def _grace(job: Job, event: Grace, now: float, random: Random) -> Step:
    if not job.is_held:
        return Step(job)
    until = now + event.lease_seconds
    deadline = max(job.deadline_at or until, until)
    return Step(replace(job, lease_expires_at=until, deadline_at=deadline))


def _lease_check(job: Job, event: LeaseCheck, now: float, random: Random) -> Step:
    if not job.is_held or job.lease_expires_at is None or job.lease_expires_at > now:
        return Step(job)
    return _lose(job, "its worker stopped renewing the lease", event.most_lost, now, random)


def _worker_gone(job: Job, event: WorkerGone, now: float, random: Random) -> Step:
    return _lose(job, event.reason, event.most_lost, now, random) if job.is_held else Step(job)


def _lose(job: Job, reason: str, most_lost: int, now: float, random: Random) -> Step:
    return _fail(
        job,
        now,
        random,
        outcome=Outcome.LOST,
        code="worker_lost",
        error=f"worker {job.worker_id} was lost: {reason}",
        most_lost=most_lost,
    )


def _deadline_check(job: Job, event: DeadlineCheck, now: float, random: Random) -> Step:
    if not job.is_held or job.deadline_at is None or job.deadline_at + event.grace_seconds > now:
        return Step(job)
    error = f"The job did not end within its timeout of {job.timeout_seconds:g} s."
    return _fail(job, now, random, outcome=Outcome.TIMEOUT, code="timeout", error=error)


def _cancel(job: Job, event: Cancel, now: float, random: Random) -> Step:
    """At once while nobody holds it, through its worker while somebody does; STALE: it has ended.

    A job that is cancelled, or will be, is a DUPLICATE.
    """
    if job.state is JobState.CANCELLED or (job.is_held and job.cancel_requested):
        return Step(job, Fence.DUPLICATE)
    if job.state in TERMINAL:
        return Step(job, Fence.STALE)
    if job.is_held:
        return Step(replace(job, cancel_requested=True))
    done = _ended(job, JobState.CANCELLED, "cancelled", CANCELLED_TEXT)
    return Step(done, lines=(_line(done, CANCELLED_TEXT),))


def _retry_by_hand(job: Job, event: RetryByHand, now: float, random: Random) -> Step:
    """Queue an ended job again, with all its retries before it and nothing of its past."""
    if job.state not in RETRYABLE_BY_HAND:
        return Step(job, Fence.STALE)
    fresh = replace(job, lost_workers=0, engine_crashes=0, void_attempts=job.attempt)
    again = _pending(fresh, now, 0, "retried by hand")
    return Step(again, lines=(_line(again, "retried by hand"),), forgets=True)


# ---------------------------------------------------------------- what they share


def _holds(job: Job, event: Renew | Say | Append | Report | Release) -> bool:
    """The fence."""
    return job.is_held and job.attempt == event.attempt and job.worker_id == event.worker_id


def _was_given_up(job: Job, event: Append | Report, past: PastAttempt | None) -> bool:
    """Whether an attempt lost its job although nobody else has begun it since.

    Its worker was cut off for longer than a lease. What it finished is as good as ever.
    """
    return (
        job.state is JobState.PENDING
        and job.attempt == event.attempt
        and job.attempt > job.void_attempts
        and past is not None
        and past.outcome is Outcome.LOST
        and past.worker_id == event.worker_id
    )


def _going_on(job: Job) -> Fence:
    return Fence.CANCELLED if job.cancel_requested else Fence.ACCEPTED


def _fail(
    job: Job,
    now: float,
    random: Random,
    *,
    outcome: Outcome,
    code: str,
    error: str,
    by_nature: bool = True,
    reported: bool = False,
    engine_jobs: int = 0,
    most_lost: int = 0,
) -> Step:
    """End an attempt that brought nothing, and say what becomes of the job.

    A job whose submitter wants it stopped is not tried again.
    """
    end = AttemptEnd(outcome, reported, code, error)
    if job.cancel_requested:
        return _not_again(job, end, Fence.ACCEPTED)
    if code == "engine_crashed":
        job = replace(job, engine_crashes=job.engine_crashes + 1)
    if outcome is Outcome.LOST:
        job = replace(job, lost_workers=job.lost_workers + 1)
        decision = _decide_after_loss(job, most_lost, random)
    else:
        decision = _decide(job, code, by_nature, engine_jobs, random)
    if decision.state is JobState.PENDING:
        message = f"attempt {job.attempt} ended: {error}"
        again = _pending(job, now + decision.delay_seconds, decision.retries_used, message)
        return Step(again, lines=(_line(again, message),), ended=end)
    if decision.poisonous:
        error = f"{_poison_words(job, outcome)}; last: {error}"
    retryable = by_nature and not decision.poisonous
    done = _ended(job, decision.state, code, error, retryable=retryable)
    keep = Keep.PARTIAL if done.state is JobState.TIMEOUT and reported else Keep.NOTHING
    return Step(done, lines=(_line(done, error),), ended=end, keep=keep)


def _poison_words(job: Job, outcome: Outcome) -> str:
    if outcome is Outcome.LOST:
        return f"{job.lost_workers} workers were lost while this job ran on them"
    return f"the engine died {job.engine_crashes} times under this job"


def _decide_after_loss(job: Job, most_lost: int, random: Random) -> Decision:
    return decide_after_lost_worker(
        job.policy, job.retries_used, lost=job.lost_workers, most_lost=most_lost, random=random
    )


def _decide(
    job: Job,
    code: str,
    by_nature: bool,
    engine_jobs: int,
    random: Random,
) -> Decision:
    if code != "engine_crashed":
        return decide_after_failure(
            job.policy, job.retries_used, code, by_nature=by_nature, random=random
        )
    return decide_after_engine_death(
        job.policy,
        job.retries_used,
        deaths=job.engine_crashes,
        engine_jobs=engine_jobs,
        by_nature=by_nature,
        random=random,
    )


def _not_again(job: Job, end: AttemptEnd, verdict: Fence) -> Step:
    done = _ended(job, JobState.CANCELLED, "cancelled", CANCELLED_TEXT)
    return Step(done, verdict, (_line(done, CANCELLED_TEXT),), ended=end)


def _pending(job: Job, available_at: float, retries_used: int, message: str) -> Job:
    check_transition(job.state, JobState.PENDING)
    return replace(
        job,
        state=JobState.PENDING,
        worker_id=None,
        cancel_requested=False,
        available_at=available_at,
        lease_expires_at=None,
        deadline_at=None,
        retries_used=retries_used,
        status_message=message,
        error_code=None,
        error=None,
        error_retryable=None,
    )


def _ended(
    job: Job,
    to: JobState,
    code: str | None = None,
    error: str | None = None,
    *,
    retryable: bool | None = None,
) -> Job:
    check_transition(job.state, to)
    return replace(
        job,
        state=to,
        lease_expires_at=None,
        deadline_at=None,
        status_message=None,
        error_code=code,
        error=error,
        error_retryable=retryable,
    )


def _line(job: Job, message: str = "") -> StateLine:
    return StateLine(job.state, job.attempt, job.worker_id, message)


_STEPS: Mapping[type, Callable[[Job, Any, float, Random], Step]] = {
    Claim: _claim,
    Renew: _renew,
    Say: _say,
    Append: _append,
    Report: _report,
    Release: _release,
    Suspect: _suspect,
    Grace: _grace,
    LeaseCheck: _lease_check,
    DeadlineCheck: _deadline_check,
    WorkerGone: _worker_gone,
    Cancel: _cancel,
    RetryByHand: _retry_by_hand,
}
