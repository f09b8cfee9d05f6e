from __future__ import annotations

import itertools

import pytest

from mnemos.cortex.state_machine import (
    ACTIVE,
    PHASES,
    RETRYABLE_BY_HAND,
    TERMINAL,
    TRANSITIONS,
    Decision,
    JobState,
    RetryPolicy,
    TransitionError,
    backoff_seconds,
    check_transition,
    decide_after_engine_death,
    decide_after_failure,
    decide_after_lost_worker,
    mermaid,
    runs_apart,
)

ALLOWED = {
    "pending": "acquired completed cancelled",
    "acquired": ("loading_model executing streaming completed failed cancelled timeout pending"),
    "loading_model": "executing streaming completed failed cancelled timeout pending",
    "executing": "streaming completed failed cancelled timeout pending",
    "streaming": "completed failed cancelled timeout pending",
    "completed": "",
    "failed": "pending",
    "cancelled": "pending",
    "timeout": "pending",
}


@pytest.mark.parametrize(("source", "target"), list(itertools.product(JobState, JobState)))
def test_every_pair_is_allowed_or_refused_as_written(source: JobState, target: JobState) -> None:
    if target.value in ALLOWED[source.value].split():
        check_transition(source, target)
    else:
        with pytest.raises(TransitionError, match=f"from {source} to {target}"):
            check_transition(source, target)


def test_every_state_has_a_row_and_a_phase() -> None:
    assert set(TRANSITIONS) == set(PHASES) == set(JobState)
    assert {JobState.PENDING} | ACTIVE | TERMINAL == set(JobState)
    assert not ACTIVE & TERMINAL


def test_a_completed_job_is_never_run_again() -> None:
    assert TERMINAL - {JobState.COMPLETED} == RETRYABLE_BY_HAND


def test_every_active_state_can_end_and_can_go_back() -> None:
    for state in ACTIVE:
        assert TERMINAL | {JobState.PENDING} <= TRANSITIONS[state]


def test_the_diagram_draws_every_transition_once() -> None:
    lines = mermaid().splitlines()
    drawn = [line.strip() for line in lines[1:] if "[*]" not in line]
    expected = {f"{source} --> {target}" for source, ends in TRANSITIONS.items() for target in ends}
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == expected


@pytest.mark.parametrize(
    ("used", "ceiling"), [(0, 1), (1, 2), (2, 4), (8, 256), (9, 300), (100, 300), (5000, 300)]
)
def test_backoff_doubles_up_to_the_cap_and_is_fully_jittered(used: int, ceiling: float) -> None:
    policy = RetryPolicy()
    assert backoff_seconds(policy, used, lambda: 0.0) == 0
    assert backoff_seconds(policy, used, lambda: 0.5) == ceiling / 2
    assert backoff_seconds(policy, used, lambda: 0.999999) < ceiling


def _decide(policy: RetryPolicy, used: int, code: str, *, by_nature: bool = True) -> Decision:
    return decide_after_failure(policy, used, code, by_nature=by_nature, random=lambda: 0.5)


def test_a_retryable_failure_waits_and_is_charged() -> None:
    decision = _decide(RetryPolicy(), 1, "out_of_memory")
    assert decision == Decision(JobState.PENDING, delay_seconds=1.0, retries_used=2)


def test_a_failure_that_is_not_retryable_ends_the_job_at_once() -> None:
    decision = _decide(RetryPolicy(), 0, "invalid_input", by_nature=False)
    assert decision.state is JobState.FAILED
    assert decision.retries_used == 0


def test_the_last_retry_is_the_last() -> None:
    assert _decide(RetryPolicy(max_retries=2), 1, "internal").state is JobState.PENDING
    assert _decide(RetryPolicy(max_retries=2), 2, "internal").state is JobState.FAILED


def test_named_codes_alone_are_retried() -> None:
    policy = RetryPolicy(retryable_codes=("out_of_memory",))
    assert _decide(policy, 0, "out_of_memory", by_nature=False).state is JobState.PENDING
    assert _decide(policy, 0, "engine_crashed").state is JobState.FAILED


def _decide_loss(lost: int, *, used: int = 0, max_retries: int = 3) -> Decision:
    policy = RetryPolicy(max_retries=max_retries, retryable_codes=("out_of_memory",))
    return decide_after_lost_worker(policy, used, lost=lost, most_lost=3, random=lambda: 0.5)


def test_a_lost_worker_is_always_worth_another_try_and_never_charged() -> None:
    for used in (0, 3):
        assert _decide_loss(1, used=used) == Decision(JobState.PENDING, 0.5, used)
        assert _decide_loss(2, used=used) == Decision(JobState.PENDING, 1.0, used)
        poison = Decision(JobState.FAILED, retries_used=used, poisonous=True)
        assert _decide_loss(3, used=used) == poison
    assert _decide_loss(1, max_retries=0) == Decision(JobState.FAILED)


def test_a_job_runs_apart_when_one_more_lost_worker_would_end_it() -> None:
    assert [runs_apart(lost, 3) for lost in range(4)] == [False, False, True, True]
    assert [runs_apart(lost, 2) for lost in range(3)] == [False, True, True]
    assert not runs_apart(0, 1)


def test_a_timeout_is_an_end_of_its_own_unless_the_policy_names_it() -> None:
    assert _decide(RetryPolicy(), 0, "timeout").state is JobState.TIMEOUT
    named = RetryPolicy(max_retries=1, retryable_codes=("timeout",))
    assert _decide(named, 0, "timeout").state is JobState.PENDING
    assert _decide(named, 1, "timeout").state is JobState.TIMEOUT


def _decide_death(
    deaths: int, engine_jobs: int, *, used: int = 0, policy: RetryPolicy | None = None
) -> Decision:
    return decide_after_engine_death(
        policy or RetryPolicy(),
        used,
        deaths=deaths,
        engine_jobs=engine_jobs,
        by_nature=True,
        random=lambda: 0.5,
    )


@pytest.mark.parametrize("used", [0, 3])
def test_a_job_alone_in_a_second_dead_engine_is_poison(used: int) -> None:
    for deaths in (2, 3):
        decision = _decide_death(deaths, 1, used=used)
        assert decision == Decision(JobState.FAILED, retries_used=used, poisonous=True)


@pytest.mark.parametrize(("deaths", "engine_jobs"), [(1, 1), (1, 0), (2, 0), (5, 0)])
def test_the_first_death_or_one_among_who_knows_how_many_is_a_charged_retry(
    deaths: int, engine_jobs: int
) -> None:
    assert _decide_death(deaths, engine_jobs, used=1) == Decision(JobState.PENDING, 1.0, 2)
    assert _decide_death(deaths, engine_jobs, used=3) == Decision(JobState.FAILED, retries_used=3)


@pytest.mark.parametrize("used", [0, 3])
def test_a_neighbours_death_is_not_charged_and_waits_a_moment(used: int) -> None:
    for deaths in (1, 2):
        assert _decide_death(deaths, 8, used=used) == Decision(JobState.PENDING, 0.5, used)


def test_a_job_that_is_never_let_alone_does_not_go_on_for_ever() -> None:
    assert _decide_death(3, 8, used=0) == Decision(JobState.PENDING, 0.5, 1)
    assert _decide_death(6, 8, used=3).state is JobState.FAILED


def test_a_policy_without_retries_has_none_after_a_neighbours_death_either() -> None:
    for policy in (RetryPolicy(max_retries=0), RetryPolicy(retryable_codes=("timeout",))):
        assert _decide_death(1, 8, policy=policy).state is JobState.FAILED
