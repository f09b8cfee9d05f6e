"""From a request to durable jobs, and to their ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from mnemos.http import ApiError, unavailable

from ..api.context import ApiContext
from ..api.following import follow
from ..api.results import whole_result
from ..api.submission import parse_job
from ..records import JobRecord
from ..state_machine import JobState
from .errors import failure_of, refusal

T = TypeVar("T")

STOPPING = "CORTEX stops; the same request may be sent again."


class ClientGoneError(Exception):
    """Nobody is there any more to be answered."""


@dataclass(slots=True)
class Asked:
    """The jobs of one request.

    Jobs whose client goes away are cancelled, unless the request had an idempotency key: whoever
    sends it again gets the same jobs' answers.
    """

    cortex: ApiContext
    job_ids: list[str]
    keyed: bool
    ended: set[int] = field(default_factory=set)

    def leave(self) -> None:
        """Nobody reads on: let what has not ended be cancelled. Returns at once."""
        if not self.keyed:
            left = (job for i, job in enumerate(self.job_ids) if i not in self.ended)
            self.cortex.abandoned.leave(left)

    async def first_job(self) -> JobRecord:
        """The first job as it stands."""
        return await self.cortex.store.get_job(self.job_ids[0])

    async def answer(self, index: int) -> Answer:
        """The answer of a job that has ended. Raises ApiError for one that failed."""
        job = await self.cortex.store.get_job(self.job_ids[index])
        self.ended.add(index)
        return await read_answer(self.cortex, job)

    async def answers(self, request: Request) -> list[Answer]:
        """All answers, once all jobs have ended. Raises ApiError, ClientGoneError."""
        try:
            return await _unless_gone(request, self._all())
        finally:
            self.leave()

    async def _all(self) -> list[Answer]:
        async with aclosing(follow(self.cortex, self.job_ids)) as pages:
            async for _ in pages:
                continue
        if self.cortex.notifier.closed:
            raise unavailable(STOPPING)
        return [await self.answer(index) for index in range(len(self.job_ids))]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a job brought."""

    job: JobRecord
    result: Any
    metadata: dict[str, Any]


async def read_answer(cortex: ApiContext, job: JobRecord) -> Answer:
    """What a job that has ended brought. Raises ApiError for one that failed."""
    if job.status is not JobState.COMPLETED:
        raise failure_of(job)
    return Answer(
        job=job,
        result=json.loads(await whole_result(cortex, job)),
        metadata=json.loads(job.output_metadata or "{}"),
    )


async def ask(cortex: ApiContext, jobs: Sequence[dict[str, Any]], key: str | None) -> Asked:
    """Store the jobs, all in one commit. Raises ApiError for what is wrong with any of them."""
    preparation = cortex.preparation
    keys = [key if key is None or index == 0 else f"{key}/{index}" for index in range(len(jobs))]
    new = [
        await preparation.prepare(parse_job(body), own)
        for body, own in zip(jobs, keys, strict=True)
    ]
    stored = await cortex.submit(new)
    for one in stored:
        if one.conflict is not None:
            raise refusal(one.conflict, code="conflict")
    return Asked(cortex, [one.job_id for one in stored], keyed=key is not None)


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Await `work` as long as the client stays. Raises ClientGoneError."""
    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_until_gone(request))
            result = await work
            watch.cancel()
            return result
    except* ClientGoneError:
        raise ClientGoneError from None
    except* ApiError as failures:
        failure = failures.exceptions[0]
    raise failure


async def _until_gone(request: Request) -> None:
    """Raises ClientGoneError when the connection ends."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
