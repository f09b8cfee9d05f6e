"""What a text answer has got to: the tokens in its job's log, for the attempt that goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..records import Progress
from .transaction import Row, Transaction

MAX_LEASED_BYTES = 7 * 1024 * 1024 // 2
"""What a job and its progress may take together: workers read messages of 4 MiB."""
_TEXT_RUNTIMES = frozenset({"transformers", "vllm", "echo"})
_GUIDES = ("json_schema", "regex", "choice")
_TOKEN_BYTES = 5
_SINCE_RESTART = """
SELECT data FROM job_events
WHERE job_seq = :seq AND kind = 'token' AND sequence > (
    SELECT COALESCE(MAX(sequence), -1) FROM job_events WHERE job_seq = :seq AND kind = 'restart'
)
ORDER BY sequence
"""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A `token` line of a job's log."""

    content: str
    token_ids: Sequence[int]
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What of a job decides whether its next attempt goes on or starts over."""

    job_type: str
    runtime: str
    parameters: Mapping[str, Any]
    size_bytes: int
    void_attempts: int
    streamed: Sequence[Streamed]

    @property
    def goes_on(self) -> bool:
        """Whether an answer can be taken up behind its last token; there must be one.

        A guide cannot be taken up in the middle, several answers share no text, and what has no
        token ids from its very start, as the answer of a custom model, was never in tokens.
        """
        parameters, first = self.parameters, self.streamed[0]
        return (
            self.job_type == "inference"
            and self.runtime in _TEXT_RUNTIMES
            and all(parameters.get(guide) is None for guide in _GUIDES)
            and parameters.get("n", 1) == 1
            and bool(first.token_ids)
            and first.attempt > self.void_attempts
            and self.size_bytes <= MAX_LEASED_BYTES
        )


def begins_again(tx: Transaction, job: Row) -> bool:
    """Say whether the next attempt at a pending job makes void what readers have of its text.

    Its row has its input.
    """
    streamed = _streamed(tx, job)
    if not streamed:
        return False
    course = Course(
        job_type=job["job_type"],
        runtime=job["runtime"],
        parameters=_parameters(job["input"]),
        size_bytes=job["size_bytes"],
        void_attempts=job["void_attempts"],
        streamed=streamed,
    )
    return not course.goes_on


def progress_of(tx: Transaction, job: Row) -> Progress | None:
    """Return what earlier attempts streamed and a job just claimed goes on from, if anything."""
    streamed = _streamed(tx, job) if job["attempt"] > 1 else ()
    if not streamed:
        return None
    return Progress(
        token_ids=[token for one in streamed for token in one.token_ids],
        text="".join(one.content for one in streamed),
    )


def wants_stream(job_input: str) -> bool:
    """Say whether the submitter asked to read along."""
    return bool(_parameters(job_input).get("stream"))


def room_taken(content: str, token_ids: Sequence[int]) -> int:
    """Return about how many bytes tokens take when they travel with their job."""
    return len(content.encode()) + _TOKEN_BYTES * len(token_ids)


def _streamed(tx: Transaction, job: Row) -> Sequence[Streamed]:
    """The text that counts: what came before the last restart is void."""
    lines = tx.all(_SINCE_RESTART, {"seq": job["seq"]})
    return [Streamed(**json.loads(line["data"])) for line in lines]


def _parameters(job_input: str) -> Mapping[str, Any]:
    parameters: Mapping[str, Any] = json.loads(job_input).get("parameters") or {}
    return parameters
