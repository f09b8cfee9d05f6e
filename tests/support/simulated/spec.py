"""The jobs of the simulation, and what their texts must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lease_ledger import Line
from lease_rules import demand

from mnemos.cortex.state_machine import RetryPolicy

LEASE_SECONDS = 6.0
SUSPECT_SECONDS = 1.5
DEADLINE_GRACE_SECONDS = 10.0
POISON_DEATHS = 2
"""From so many on a worker runs a job alone."""

Token = tuple[int, int]
"""Its place in the text, and the attempt that drew it; 0 where every attempt draws the same."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A job to be: how long its text is, and what goes wrong with it."""

    key: str
    tokens: int
    continues: bool
    """Whether an attempt goes on behind the tokens of the one before."""
    streams: bool
    poison: bool = False
    """It kills each engine that draws its second token."""
    killer: bool = False
    """It kills each worker that draws its second token."""
    failing_attempts: int = 0
    """So many attempts fail, in a way that may be retried."""
    timeout_seconds: float = 60.0
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    def token(self, place: int, attempt: int) -> Token:
        """What an attempt draws there."""
        return place, 0 if self.continues else attempt


@dataclass(frozen=True, slots=True)
class Leased:
    """A job as a worker gets it."""

    job_id: str
    attempt: int
    spec: Spec
    text: tuple[Token, ...]
    """What it goes on behind."""
    deaths: int


def text_of(log: Sequence[Line]) -> list[Token]:
    """What readers have: every token since the last restart."""
    text: list[Token] = []
    for line in log:
        if line.kind == "restart":
            text.clear()
        elif line.kind == "chunk":
            text.append(line.brought)
    return text


def check_text(spec: Spec, text: Sequence[Token], *, whole: bool, what: str) -> None:
    """No token lost, none twice, none from another attempt where texts differ by attempt."""
    places = [place for place, _ in text]
    demand(places == list(range(len(text))), f"{what} has every token once", spec.key, text)
    drawn_by = {attempt for _, attempt in text}
    demand(len(drawn_by) <= 1, f"{what} is of one attempt", spec.key, text)
    demand(not spec.continues or drawn_by <= {0}, f"{what} is as it should be", spec.key, text)
    demand(not whole or len(text) == spec.tokens, f"{what} is whole", spec.key, text)
