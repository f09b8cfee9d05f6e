"""Whose a job is: other keys' jobs are, to a key, as if they were not there."""

from __future__ import annotations

from ..errors import JobNotFoundError
from ..principal import ADMIN
from ..records import JobRecord
from .context import ApiContext


async def job_of(cortex: ApiContext, job_id: str) -> JobRecord:
    """Return a job that whoever asks may see. Raises JobNotFoundError."""
    job = await cortex.store.get_job(job_id)
    if not cortex.principal.sees(job.key_id):
        raise JobNotFoundError(job_id)
    return job


async def check_own(cortex: ApiContext, job_id: str) -> None:
    """Raises JobNotFoundError for a job that whoever asks may not see.

    Who sees everything is not made to wait for a look at it.
    """
    if ADMIN not in cortex.principal.scopes:
        await job_of(cortex, job_id)


def owner_filter(cortex: ApiContext) -> str | None:
    """Whose jobs a list shows; None for everybody's."""
    principal = cortex.principal
    return None if ADMIN in principal.scopes else principal.key_id
