"""Submissions whose answers are lost on the way are sent again, and make one job each."""

from __future__ import annotations

import asyncio
import itertools
import random
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest
from answer_dropper import AnswerDropper
from echo_jobs import echo_job
from figures import Figures, Scale
from fleet import Fleet
from postgres_tools import Postgres

pytestmark = pytest.mark.timeout(600)

CLIENTS = 32
SHARE_LOST = 0.3


class Submitters:
    """Clients that send each job until they have read an answer, to one proxy after the other."""

    def __init__(self, http: httpx2.AsyncClient, urls: list[str], count: int) -> None:
        self.answers: dict[int, tuple[int, str]] = {}
        """Status and job id that each job was answered with."""
        self._http = http
        self._urls = itertools.cycle(urls)
        self._indexes = iter(range(count))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._submit_all())

    async def _submit_all(self) -> None:
        for index in self._indexes:
            body = echo_job("answers", index)
            while index not in self.answers:
                try:
                    answer = await self._http.post(f"{next(self._urls)}/api/v1/jobs", json=body)
                except httpx2.TransportError:
                    continue
                assert answer.status_code in {200, 201}, answer.text
                self.answers[index] = answer.status_code, answer.json()["job_id"]


async def submit_through_losses(fleet: Fleet, count: int, figures: Figures) -> None:
    async with fleet, AsyncExitStack() as stack:
        dice = random.Random(count)
        proxies = [
            await stack.enter_async_context(AnswerDropper(replica.http_port, SHARE_LOST, dice))
            for replica in fleet.replicas
        ]
        submitters = Submitters(fleet.http, [proxy.url for proxy in proxies], count)
        await submitters.run()
        stats = (await fleet.http.get(f"{fleet.urls[0]}/api/v1/stats")).json()
    asked = sum(proxy.answers for proxy in proxies)
    dropped = sum(proxy.dropped for proxy in proxies)
    made_before = sum(status == 200 for status, _ in submitters.answers.values())
    job_ids = {job_id for _, job_id in submitters.answers.values()}
    figures.note("submits", count)
    figures.note("requests", asked)
    figures.note("answers dropped", dropped)
    figures.note("told of the job they had made", made_before)
    figures.note("jobs", stats["jobs"]["pending"])
    assert len(submitters.answers) == len(job_ids) == count
    assert sum(stats["jobs"].values()) == stats["jobs"]["pending"] == count
    assert dropped == asked - count > 0.9 * SHARE_LOST * asked
    assert made_before > 0.9 * SHARE_LOST * count


async def test_submits_whose_answers_are_dropped_on_sqlite(
    tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    await submit_through_losses(Fleet(tmp_path), scale.of(5_000, 1_000), figures)


async def test_submits_whose_answers_are_dropped_by_two_replicas(
    tmp_path: Path, postgres: Postgres, scale: Scale, figures: Figures
) -> None:
    with postgres.database("template0") as url:
        fleet = Fleet(tmp_path, replicas=2, database_url=url)
        await submit_through_losses(fleet, scale.of(5_000, 1_000), figures)
