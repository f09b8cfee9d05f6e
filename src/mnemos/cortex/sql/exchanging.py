"""What workers tell and ask at one time: reports, renewals and a claim, in one go."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import CortexError
from ..records import Claimed, Exchange, Exchanged, RefVerdict
from .attempts import renew_loaded, report_loaded
from .carry_out import Random
from .claiming import claim
from .jobs_loaded import load_jobs
from .shares import Shares
from .transaction import Transaction


def exchange(
    tx: Transaction,
    told: Sequence[Exchange],
    *,
    lease_seconds: float,
    most_lost: int,
    shares: Shares,
    random: Random,
) -> list[Exchanged]:
    """Carry out all reports, then all renewals, then all claims."""
    reporting = [place for place, one in enumerate(told) if one.reports]
    renewing = [place for place, one in enumerate(told) if one.renewals]
    reports = [(told[place].worker_id, told[place].reports) for place in reporting]
    renewals = [(told[place].worker_id, told[place].renewals) for place in renewing]
    wanted = {place: one.wanted for place, one in enumerate(told) if one.wanted is not None}
    named = {job_id for one in told for job_id in jobs_named(one)}
    jobs = load_jobs(tx, named)
    reported = dict(zip(reporting, report_loaded(tx, jobs, reports, random=random), strict=True))
    renewed = dict(
        zip(
            renewing,
            renew_loaded(tx, jobs, renewals, lease_seconds=lease_seconds),
            strict=True,
        )
    )
    claims = claim(
        tx,
        list(wanted.values()),
        lease_seconds=lease_seconds,
        most_lost=most_lost,
        shares=shares,
    )
    claimed = dict(zip(wanted, claims, strict=True))
    return [
        _answer(reported.get(place, ()), renewed.get(place, ()), claimed.get(place))
        for place in range(len(told))
    ]


def jobs_named(told: Exchange) -> list[str]:
    """The jobs that an exchange reports or renews."""
    return [
        *(said.job_id for said in told.reports),
        *(ref.job_id for ref in told.renewals),
    ]


def _answer(
    reported: Sequence[RefVerdict],
    renewed: Sequence[RefVerdict] | CortexError,
    claimed: Claimed | CortexError | None,
) -> Exchanged:
    refusal: CortexError | None = None
    if isinstance(renewed, CortexError):
        refusal = renewed
        renewed = ()
    if isinstance(claimed, CortexError):
        refusal = claimed
        claimed = None
    return Exchanged(reported, renewed, claimed, refusal)
