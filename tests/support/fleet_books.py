"""What must be true of every job when a fleet has come to rest, whatever happened to it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from cortex_tools import StoreTools, TurnableClock
from fleet import Fleet
from fleet_faults import Kill
from fleet_load import Load, Reading, Task
from pydantic import SecretStr
from store_chaos import check_books, check_log

from mnemos.cortex.errors import JobNotFoundError
from mnemos.cortex.notifier import LocalNotifier
from mnemos.cortex.records import AttemptRecord, EventRecord, JobRecord
from mnemos.cortex.settings import CortexSettings
from mnemos.cortex.sql.choice import open_store
from mnemos.cortex.state_machine import TERMINAL, JobState

MOST_EVENTS = 10_000
MOST_SHOWN = 1_000
"""So many characters of one fault."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A job as the store has it."""

    task: Task
    job: JobRecord
    attempts: list[AttemptRecord]
    events: list[EventRecord]

    @property
    def accepted(self) -> int:
        """How many attempts' results were taken."""
        return sum(attempt.outcome == "completed" for attempt in self.attempts)


@dataclass(slots=True)
class Books:
    """All jobs of a load, and what is wrong with them, which is nothing."""

    ended: list[Ended] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    stored: int = 0
    """How many jobs the store has, of whomever."""
    wrong: list[str] = field(default_factory=list)

    def check(self, jobs: int) -> None:
        """Fail unless there are that many jobs, none is lost, and nothing is wrong with any."""
        found = [f"{job_id}: was acknowledged and is not there" for job_id in self.lost]
        found += [what[:MOST_SHOWN] for what in self.wrong]
        if self.stored != jobs:
            found.append(f"there are {self.stored} jobs, not {jobs}")
        if found:
            pytest.fail("\n".join([f"{len(found)} faults", *found[:20]]), pytrace=False)

    @property
    def doubled(self) -> int:
        return sum(one.accepted > 1 for one in self.ended)

    @property
    def retried(self) -> int:
        return sum(one.job.attempt > 1 for one in self.ended)

    def attempts_lost(self) -> int:
        """How many attempts ended because their worker was not heard of."""
        return sum(attempt.outcome == "lost" for one in self.ended for attempt in one.attempts)

    def seconds_to_next_attempt(
        self, kills: Sequence[Kill], outages: Sequence[tuple[float, float]]
    ) -> list[float]:
        """How long after each kill each of that worker's jobs was in other hands, in order.

        Left out are those that also waited for CORTEX, which was down or gave the lease anew.
        """
        taken = []
        for one in self.ended:
            for before, after in itertools.pairwise(one.attempts):
                for kill in kills:
                    if not _cut_short(before, kill):
                        continue
                    if not any(
                        kill.at - 5 < end and begin < after.started_at for begin, end in outages
                    ):
                        taken.append(after.started_at - kill.at)
        return sorted(taken)


def _cut_short(attempt: AttemptRecord, kill: Kill) -> bool:
    ended_at = attempt.ended_at or 0.0
    return attempt.worker_id == kill.worker_id and attempt.started_at < kill.at < ended_at


async def read_books(fleet: Fleet, load: Load) -> Books:
    """Read every job from the store itself, when no CORTEX runs any more."""
    settings = CortexSettings(
        data_dir=fleet.data_dir,
        database_url=SecretStr(fleet.database_url) if fleet.database_url else None,
        lease_seconds=fleet.lease_seconds,
    )
    notifier = LocalNotifier()
    books = Books()
    async with open_store(settings, notifier, clock=None, measure=lambda _: None) as store:
        tools = StoreTools(store, TurnableClock(), notifier)
        await check_books(tools)
        books.stored = sum((await store.totals()).jobs.values())
        for job_id, task in load.acknowledged.items():
            try:
                job = await store.get_job(job_id)
            except JobNotFoundError:
                books.lost.append(job_id)
                continue
            await check_log(tools, job_id)
            attempts = await store.get_attempts(job_id)
            events = (await store.read_events(job_id, 0, MOST_EVENTS)).events
            books.ended.append(Ended(task, job, attempts, list(events)))
    for one in books.ended:
        books.wrong += [f"{one.job.job_id}: {what}" for what in _faults_of(one)]
    books.wrong += _faults_of_readers(books.ended, load.readings)
    return books


def _faults_of(one: Ended) -> list[str]:
    job, faults = one.job, []
    if job.status is not JobState.COMPLETED:
        return [f"is {job.status.value}: {job.error}"]
    if one.accepted != 1 or one.attempts[-1].outcome != "completed":
        faults.append(f"has results of {one.accepted} attempts: {one.attempts}")
    if json.loads(job.result or "null") != one.task.text:
        faults.append(f"answers {job.result!r}, not {one.task.text!r}")
    return faults + _faults_of_log(one)


def _faults_of_log(one: Ended) -> list[str]:
    """The readers' text is the answer, made by attempts one after the other; it ends once."""
    faults = []
    told = [(event.kind, json.loads(event.data)) for event in one.events]
    if [event.sequence for event in one.events] != list(range(len(one.events))):
        faults.append("has a log with gaps")
    ends = [data["status"] for kind, data in told if kind == "state" and data["status"] in TERMINAL]
    if len(ends) != 1:
        faults.append(f"ended as {ends}")
    valid = told
    for place, (kind, _) in enumerate(told):
        if kind == "restart":
            valid = told[place + 1 :]
    tokens = [data for kind, data in valid if kind == "token"]
    text = "".join(data["content"] for data in tokens)
    if text != one.task.text and (tokens or one.task.stream):
        faults.append(f"told readers {text!r}, not {one.task.text!r}")
    hands = [data["attempt"] for data in tokens]
    if hands != sorted(hands):
        faults.append(f"mixes the tokens of attempts {hands}")
    numbers = [number for data in tokens for number in data["token_ids"]]
    if numbers != list(range(len(numbers))):
        faults.append(f"has tokens {numbers}")
    return faults


def _faults_of_readers(ended: Sequence[Ended], readings: Sequence[Reading]) -> list[str]:
    """Whoever followed a job, over however many connections, was told its log and its end."""
    by_id = {one.job.job_id: one for one in ended}
    faults = []
    for reading in readings:
        one = by_id.get(reading.job_id)
        if one is None:
            continue
        log = [(event.sequence, event.kind, json.loads(event.data)) for event in one.events]
        if reading.events != log:
            faults.append(f"{reading.job_id}: a reader was told {reading.events}, not {log}")
        if reading.end is None or reading.end["result"] != one.task.text:
            faults.append(f"{reading.job_id}: a reader was told of the end {reading.end}")
    return faults


def count_by_attempts(books: Books) -> Counter[int]:
    """How many jobs took how many attempts."""
    return Counter(one.job.attempt for one in books.ended)
