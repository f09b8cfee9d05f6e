"""What the command line says when something cannot be done.

CliError                 one sentence, a stable code, an exit status, often a hint
├── UsageFault           2: what was typed cannot work
│   └── NotUnicode
├── NotFound             3
├── NotLetIn             1: the key is missing, wrong, or may not do this
├── Unreachable          5: the server does not answer (the call may be repeated)
│   └── TooMuch             the key's limits are reached for now
├── WrongServer          5: something else answers there (repeating the call is no use)
├── Conflict             6: wrong state, or something is in the way
└── TimedOut             7
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """The exit statuses of every command; `mnemos --help` lists them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 5
    CONFLICT = 6
    TIMED_OUT = 7
    INTERRUPTED = 130


class CliError(Exception):
    """The root. `message` is one sentence; `hint` says what to do about it."""

    exit_code = ExitCode.FAILED
    default_code = "failed"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        field: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint
        self.field = field
        self.request_id = request_id

    def as_json(self) -> dict[str, Any]:
        """The body that JSON mode prints."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        for name in ("field", "hint", "request_id"):
            value = getattr(self, name)
            if value:
                body[name] = value
        return {"error": body}


class UsageFault(CliError):
    """What was typed, or what a server was asked, cannot work."""

    exit_code = ExitCode.USAGE
    default_code = "invalid_input"


class NotUnicode(UsageFault):
    """An argument or stdin holds bytes that no text has, and that no request can carry."""

    def __init__(self) -> None:
        super().__init__("The input holds text that is not Unicode (UTF-8).")


class NotFound(CliError):
    """There is no such thing."""

    exit_code = ExitCode.NOT_FOUND
    default_code = "not_found"


class NotLetIn(CliError):
    """The server asks for a key, or for one that may do more."""

    default_code = "unauthorized"


class Unreachable(CliError):
    """A server does not answer, or cannot work just now; the call may be repeated."""

    exit_code = ExitCode.UNREACHABLE
    default_code = "unavailable"


class TooMuch(Unreachable):
    """The key has as much waiting, or uses as much, as it may; later it will have room."""

    default_code = "rate_limit_exceeded"


class WrongServer(CliError):
    """Something answers at the address, but not the service that is meant."""

    exit_code = ExitCode.UNREACHABLE
    default_code = "wrong_server"


class Conflict(CliError):
    """The thing is in the wrong state, or something else is in the way."""

    exit_code = ExitCode.CONFLICT
    default_code = "conflict"


class TimedOut(CliError):
    """It took longer than it was given."""

    exit_code = ExitCode.TIMED_OUT
    default_code = "timeout"


UNKNOWN_ROUTE = "not_found"
"""What every service answers where it has nothing; a missing thing has a code of its own."""

_BY_STATUS: dict[int, type[CliError]] = {
    400: UsageFault,
    401: NotLetIn,
    403: NotLetIn,
    404: NotFound,
    408: TimedOut,
    409: Conflict,
    410: NotFound,
    413: UsageFault,
    422: UsageFault,
    429: TooMuch,
    502: Unreachable,
    503: Unreachable,
    504: Unreachable,
}


def error_from_response(
    service: str, status: int, body: object, request_id: str | None = None
) -> CliError:
    """Turn a service's error answer into ours, its code and its sentence kept."""
    kind = _BY_STATUS.get(status, CliError)
    inner = body.get("error") if isinstance(body, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("message"), str):
        return Unreachable(
            f"The server answered {status} in words that {service} does not use.",
            hint=f"check that {service} really runs at this address",
            request_id=request_id,
        )
    if status == 404 and inner.get("code") == UNKNOWN_ROUTE:
        return WrongServer(
            f"What answers at this address is not {service}: {inner['message']}",
            hint=f"check the address of {service}",
            request_id=request_id,
        )
    return kind(
        inner["message"],
        code=str(inner.get("code") or kind.default_code),
        hint=_hint(service, status),
        field=inner.get("field"),
        request_id=request_id,
    )


def _hint(service: str, status: int) -> str | None:
    if status == 401 and service == "GENOME":
        return "set MNEMOS_GENOME_TOKEN to it"
    if status == 401:
        return "set MNEMOS_API_KEY to a key; an admin makes one with: mnemos keys create NAME"
    return "an admin can change it: mnemos keys update NAME --scope …" if status == 403 else None
