"""What holds at every step of the lease core, whatever the event, said of values alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mnemos.cortex.records import Fence
from mnemos.cortex.state_machine import MAX_LOST_WORKERS, TERMINAL, TRANSITIONS, JobState, Outcome

FROM_WORKERS = frozenset({"Renew", "Say", "Append", "Report", "Release"})
"""The events that are fenced."""


class BrokenRuleError(AssertionError):
    """A promise was not kept."""


def demand(holds: bool, rule: str, *about: object) -> None:
    """Raise BrokenRuleError, with what it is about, unless the rule holds."""
    if not holds:
        raise BrokenRuleError(f"{rule}: " + "; ".join(str(one) for one in about))


def check_step(before: Any, event: Any, step: Any, given_to: str | None, now: float) -> None:
    """Raise BrokenRuleError unless a step keeps every rule.

    `given_to` is whom the books say the job's present attempt was given to.
    """
    kind = type(event).__name__
    if step.verdict is Fence.STALE:
        demand(step == type(step)(before, Fence.STALE), "a stale call changes nothing", event, step)
        demand(step.job is before, "a stale call leaves the very same job", event)
        return
    _check_attempt(before, kind, step.job)
    _check_shape(step.job)
    _check_state(before, kind, step)
    _check_chunks(before, kind, event, step)
    _check_charges(before, kind, step)
    _check_leases(before, kind, step.job, now)
    if kind in FROM_WORKERS:
        _check_fence(before, kind, event, step, given_to)
    if step.job.state is JobState.COMPLETED and before.state is not JobState.COMPLETED:
        _check_completion(before, kind, event, step)


def _check_attempt(before: Any, kind: str, after: Any) -> None:
    claimed = kind == "Claim"
    demand(
        after.attempt == before.attempt + claimed,
        "each claim counts the attempt up by one, and nothing else does",
        before,
        after,
    )
    if claimed:
        demand(after.next_chunk == 0 and not after.renewed, "an attempt begins at nought", after)


def _check_shape(job: Any) -> None:
    timed = job.lease_expires_at is not None and job.deadline_at is not None
    untimed = job.lease_expires_at is None and job.deadline_at is None
    demand(timed if job.is_held else untimed, "a held job has a lease and a deadline", job)
    if job.is_held or job.state is JobState.COMPLETED:
        demand(job.worker_id is not None, "a job is held by somebody", job)
    if job.state is JobState.PENDING:
        demand(job.worker_id is None and not job.cancel_requested, "a pending job is free", job)


def _check_state(before: Any, kind: str, step: Any) -> None:
    after = step.job
    if after.state is not before.state:
        demand(after.state in TRANSITIONS[before.state], "the table allows it", before, after)
        demand(bool(step.lines), "every change of state is in the log", before, after)
        demand(step.lines[-1].state is after.state, "the log's last line is the state", step)
    if before.state in TERMINAL and after is not before:
        demand(kind == "RetryByHand", "an ended job is begun again by hand alone", before, after)
    ends = (before.is_held and not after.is_held) or bool(step.ended and step.ended.revised)
    demand((step.ended is not None) == ends, "an attempt's end is recorded, once", before, step)


def _check_chunks(before: Any, kind: str, event: Any, step: Any) -> None:
    if kind != "Append":
        demand(not step.kept, "chunks come in appends", step)
        return
    numbers = [event.sequences[place] for place in step.kept]
    expected = list(range(before.next_chunk, before.next_chunk + len(numbers)))
    demand(numbers == expected, "chunks are kept in their order, each once", before, event, step)
    demand(step.job.next_chunk == before.next_chunk + len(numbers), "each is counted", step)


def _check_charges(before: Any, kind: str, step: Any) -> None:
    after = step.job
    if kind == "RetryByHand":
        if after is not before:
            counts = (after.retries_used, after.engine_crashes, after.lost_workers)
            fresh = (*counts, after.void_attempts)
            demand(fresh == (0, 0, 0, before.attempt), "a retry by hand counts anew", before, after)
        return
    charged = after.retries_used - before.retries_used
    demand(charged in {0, 1}, "at most one retry is charged", before, after)
    demand(after.retries_used <= after.policy.max_retries, "retries are bounded", after)
    demand(after.engine_crashes >= before.engine_crashes, "deaths are not forgotten", after)
    is_lost = step.ended is not None and step.ended.outcome is Outcome.LOST
    demand(not is_lost or not charged, "a lost worker costs no retry", before, after)
    if after.state is JobState.CANCELLED:
        return
    lost = after.lost_workers - before.lost_workers
    demand(lost == is_lost, "each lost worker is counted, and nothing else is", before, after)
    few = after.lost_workers < MAX_LOST_WORKERS or after.state is JobState.FAILED
    demand(few or not is_lost, "a job does not lose worker after worker", before, after)


def _check_leases(before: Any, kind: str, after: Any, now: float) -> None:
    if kind == "LeaseCheck" and before.is_held:
        over = before.lease_expires_at <= now
        demand(after.is_held != over, "a job is lost when its lease is over, not before", before)
    if kind == "Suspect" and before.is_held:
        demand(after.lease_expires_at <= before.lease_expires_at, "suspicion grants nothing", after)
    if kind in {"Renew", "Grace"} and before.is_held and after.is_held:
        demand(after.lease_expires_at >= now, "a renewed lease is not over", after)


def _check_fence(before: Any, kind: str, event: Any, step: Any, given_to: str | None) -> None:
    after = step.job
    if step.verdict is Fence.DUPLICATE and kind != "Say":
        demand(after is before, "a repeat changes nothing", event, step)
    if replace(after, renewed=before.renewed) == before and not step.kept:
        return
    its_own = event.attempt == before.attempt and event.worker_id == given_to
    demand(its_own, "only the attempt that was given the job counts", before, event, given_to)
    if before.is_held:
        return
    late = kind == "Append" or (kind == "Report" and event.state is JobState.COMPLETED)
    demand(late and before.state is JobState.PENDING, "late are chunks and completions", event)
    demand(event.attempt > before.void_attempts, "what a person voided stays void", before, event)
    lost = event.past is not None and event.past.outcome is Outcome.LOST
    demand(lost, "only what was lost may come late", before, event)


def _check_completion(before: Any, kind: str, event: Any, step: Any) -> None:
    reported = kind == "Report" and event.state is JobState.COMPLETED
    demand(reported, "a job completes when its worker says so", event)
    demand(not before.cancel_requested, "a job that shall stop does not complete", before)
    ended = step.ended
    demand(
        ended is not None and ended.reported and ended.outcome is Outcome.COMPLETED,
        "a completion ends its attempt",
        step,
    )
