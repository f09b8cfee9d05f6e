"""How long a client waits, and what an HTTP answer tells it."""

from __future__ import annotations

import pytest

from mnemos.client import (
    AuthenticationError,
    ConflictError,
    InvalidInputError,
    MnemosError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    UnreachableError,
)
from mnemos.client.errors import error_of_answer, error_of_line
from mnemos.client.patience import Patience


def answered(status: int, **headers: str) -> MnemosError:
    body = {"error": {"code": "some_code", "message": "No.", "field": "a.b"}}
    return error_of_answer(
        status, body, {name.replace("_", "-"): headers[name] for name in headers}
    )


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, InvalidInputError, False),
        (401, AuthenticationError, False),
        (403, PermissionDeniedError, False),
        (404, NotFoundError, False),
        (409, ConflictError, False),
        (413, InvalidInputError, False),
        (429, RateLimitedError, True),
        (500, ServerError, False),
        (503, ServerError, True),
    ],
)
def test_a_status_is_a_type(status: int, kind: type[MnemosError], *, retryable: bool) -> None:
    error = answered(status)
    assert type(error) is kind
    assert (error.code, error.message, error.retryable) == ("some_code", "No.", retryable)


def test_the_server_says_when_to_come_back() -> None:
    notes: list[str] = []
    patience = Patience(60, notes.append)
    assert patience.pause_after(answered(429, retry_after="7")) == 7
    assert patience.pause_after(answered(503, retry_after_ms="1500", retry_after="9")) == 1.5
    assert 0 < patience.pause_after(answered(503, retry_after="Tue, 01 Jan 2030")) <= 3
    assert notes == ["No. Waiting for it; nothing is lost."]
    patience.succeeded()
    assert "is back" in notes[-1]


def test_patience_ends() -> None:
    patience = Patience(5, lambda _: None)
    with pytest.raises(RateLimitedError):
        patience.pause_after(answered(429, retry_after="6"))
    with pytest.raises(NotFoundError):
        patience.pause_after(answered(404))


def test_an_address_at_which_nobody_ever_answered_is_an_error_at_once() -> None:
    refused = UnreachableError("Nobody.", refused=True)
    patience = Patience(60, lambda _: None, fail_fast=True)
    with pytest.raises(UnreachableError):
        patience.pause_after(refused)
    patience.succeeded()
    assert patience.pause_after(refused) > 0


def test_one_job_of_many_may_be_over_a_limit() -> None:
    assert isinstance(error_of_line({"code": "rate_limited", "message": "x"}), RateLimitedError)
    assert error_of_line({"code": "unavailable", "message": "x"}).retryable
    assert not error_of_line({"code": "invalid_input", "message": "x"}).retryable
