"""What a `map` sends next, played by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mnemos.client import InvalidInputError, NotFoundError, RateLimitedError
from mnemos.client.mapping import MapPlan, MapState, Pause, Step

RUNNING = {"pending": 1, "running": 0}
NOTHING = {"pending": 0, "running": 0}
TAKEN = {"status": "pending", "created": True}


def state_of(**changes: Any) -> MapState[str]:
    plan: dict[str, Any] = {"model": "m:1", "options": {}, "run_id": "run", "window": 4}
    state: MapState[str] = MapState(MapPlan(**plan | changes))
    state.exhausted = True
    return state


def step_of(state: MapState[str]) -> Step:
    step = state.next_step()
    assert step is not None
    assert not isinstance(step, Pause)
    return step


def submit(state: MapState[str], **changes: Any) -> list[dict[str, Any]]:
    """Let CORTEX take what is sent; return the jobs."""
    step = step_of(state)
    assert step.call.content is not None
    jobs: list[dict[str, Any]] = msgspec.json.decode(step.call.content)["jobs"]
    taken = TAKEN | changes
    step.done({"results": [{"job_id": job["idempotency_key"], **taken} for job in jobs]})
    return jobs


def ended(key: str, result: Any = "yes") -> dict[str, Any]:
    return {
        "job_id": key,
        "idempotency_key": key,
        "status": "completed",
        "model": {"family": "m", "version": "1"},
        "submitted_at": "now",
        "result": result,
    }


def page(*jobs: dict[str, Any], counts: dict[str, int] = RUNNING) -> dict[str, Any]:
    return {"jobs": list(jobs), "next_cursor": "c", "counts": counts}


def test_an_answer_that_lies_elsewhere_is_fetched() -> None:
    state = state_of()
    state.take(["q"])
    submit(state)
    step_of(state).done(page(ended("run:0", {"result_reference": {"engram": "x"}})))
    assert list(state.ready()) == []
    fetch = step_of(state)
    assert fetch.call.path.endswith("/jobs/run%3A0/result")
    fetch.done("a long answer")
    assert [answer.value for answer in state.ready()] == ["a long answer"]
    assert state.ended


def test_an_answer_behind_the_cursor_is_asked_for_by_its_job() -> None:
    state = state_of(after="far")
    state.take(["q"])
    submit(state, status="completed", created=False)
    poll = step_of(state)
    assert poll.call.params["wait_seconds"] == 0
    poll.done(page())
    lookup = step_of(state)
    assert lookup.call.path.endswith("/jobs/run%3A0")
    lookup.done(ended("run:0"))
    assert [answer.value for answer in state.ready()] == ["yes"]


def test_an_old_answer_that_is_read_early_is_kept_for_its_item() -> None:
    state = state_of()
    state.exhausted = False
    state.take(["q"])
    submit(state, status="completed", created=False)
    step_of(state).done(page(ended("run:1"), ended("run:0")))
    assert [answer.id for answer in state.ready()] == ["0"]
    state.take(["r"])
    state.exhausted = True
    submit(state, status="completed", created=False)
    assert [answer.id for answer in state.ready()] == ["1"]
    assert state.ended


def test_a_job_that_cortex_has_lost_is_submitted_again_from_the_start_of_the_list() -> None:
    notes: list[str] = []
    state = state_of(after="far", notice=notes.append)
    state.take(["q"])
    first = submit(state)
    step_of(state).done(page(counts=NOTHING))
    step_of(state).failed(NotFoundError("There is no job."))
    assert submit(state) == first
    poll = step_of(state)
    assert poll.call.params["after"] == ""
    poll.done(page(ended("run:0")))
    assert [answer.value for answer in state.ready()] == ["yes"]
    assert notes == ["CORTEX no longer knows some jobs; submitting them again."]


def test_what_is_over_a_limit_waits_while_the_others_are_collected() -> None:
    state = state_of()
    state.take(["q", "r"])
    limit = {"code": "rate_limited", "message": "Too many.", "retry_after_seconds": 5}
    first = step_of(state)
    first.done(
        {"results": [{"job_id": "a", "status": "pending", "created": True}, {"error": limit}]}
    )
    poll = step_of(state)
    assert 0 < poll.call.params["wait_seconds"] <= 5  # type: ignore[operator]  # a number
    poll.done(page(ended("run:0")))
    assert [answer.id for answer in state.ready()] == ["0"]
    wait = state.next_step()
    assert isinstance(wait, Pause)
    assert 0 < wait.seconds <= 5


def test_a_limit_that_lasts_longer_than_patience_ends_it() -> None:
    state = state_of(patience_seconds=3)
    state.take(["q"])
    limit = {"code": "rate_limited", "message": "Too many.", "retry_after_seconds": 5}
    step = step_of(state)
    with pytest.raises(RateLimitedError):
        step.done({"results": [{"error": limit}]})


def test_a_request_that_is_refused_whole_is_halved_until_the_culprit_is_found() -> None:
    state = state_of(ordered=True)
    state.take(["a", "b", "bad", "d"])
    while len(state.outstanding) < 3:
        step = step_of(state)
        assert step.call.content is not None
        jobs = msgspec.json.decode(step.call.content)["jobs"]
        if any(job["input"]["prompt"] == "bad" for job in jobs):
            step.failed(InvalidInputError("Not that."))
        else:
            step.done({"results": [TAKEN | {"job_id": job["idempotency_key"]} for job in jobs]})
    step_of(state).done(page(ended("run:3"), ended("run:1"), ended("run:0")))
    assert [answer.ok for answer in state.ready()] == [True, True, False, True]
