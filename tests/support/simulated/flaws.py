"""What can be wrong with a store or a worker although the lease core is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flaws:
    """None, unless said."""

    answers_early: bool = False
    """CORTEX answers before the commit."""
    gives_no_grace: bool = False
    """After a restart of CORTEX leases run out as if it had never been away."""
    has_no_lease_timer: bool = False
    """A worker works on for as long as nobody tells it to stop."""
    begins_unconfirmed: bool = False
    """A worker begins before its first renewal has succeeded."""
    reports_before_tokens: bool = False
    """A worker reports before its tokens are acknowledged."""
    mixes_suspects: bool = False
    """CORTEX gives a worker several jobs of which each may be the one that kills workers."""


FLAWS: Mapping[str, Flaws] = {
    "acknowledged before the commit": Flaws(answers_early=True),
    "no grace after a restart": Flaws(gives_no_grace=True),
    "no lease timer on the worker": Flaws(has_no_lease_timer=True),
    "begun before the first renewal": Flaws(begins_unconfirmed=True),
    "reported before the tokens": Flaws(reports_before_tokens=True),
    "suspects run together": Flaws(mixes_suspects=True),
}
