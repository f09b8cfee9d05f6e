"""Giving jobs to workers that ask for some: several claims in one go."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import CortexError, WorkerReplacedError, WorkerUnknownError
from ..lease_core import Claim
from ..records import Claimed, ClaimRequest, LeasedJob, LoadedModel
from ..state_machine import JobState
from .carry_out import Ledger
from .choosing import Choice
from .engine import LOCK, fields_of
from .fitting import Fit
from .heads import Heads
from .jobs_loaded import JOB_COLUMNS, LoadedJob
from .many import INT, TEXT, Among
from .progress import begins_again, progress_of
from .queries import job_from_row
from .rows import ROW_JOB_TYPES, finished_rows
from .shares import Shares
from .transaction import Row, Transaction
from .warm_peers import load_seconds

SEEN_AGAIN_SECONDS = 5.0
AGAIN_AFTER_OTHERS_SECONDS = 0.02
MAX_ROUNDS = 5

_WORKERS = Among(
    f"""
SELECT worker_id, instance_id, capabilities, tags, desired_state, last_seen, lost, models,
    offered_memory_mb, offered_gpu_memory_mb
FROM workers WHERE worker_id = ANY(:keys) ORDER BY worker_id {LOCK}
""",  # noqa: S608  constants only
    TEXT,
)
_TOUCH = "UPDATE workers SET last_seen = :now, lost = FALSE WHERE worker_id = :worker_id"
_NOTE_MODELS = "UPDATE workers SET models = :models WHERE worker_id = :worker_id"
_NOTE_OFFER = """
UPDATE workers SET offered_memory_mb = :memory_mb, offered_gpu_memory_mb = :gpu_memory_mb
WHERE worker_id = :worker_id
"""
# Here and wherever few rows are picked, `+ 0` keeps a planner that has no statistics yet from
# walking through the whole table for the sake of the order.
_ANSWERED = Among(
    """
SELECT jobs.job_id, attempts.worker_id, attempts.request_id, jobs.status, jobs.renewed,
    jobs.lease_expires_at
FROM attempts JOIN jobs ON jobs.seq = attempts.job_seq
WHERE attempts.worker_id = ANY(:keys) AND attempts.ended_at IS NULL
    AND attempts.request_id = ANY(:requests)
ORDER BY attempts.job_seq + 0
""",
    TEXT,
    requests=TEXT,
)
_COLUMNS = f"""
    {JOB_COLUMNS}, jobs.family, jobs.version, jobs.min_memory_mb, jobs.min_gpu_memory_mb, jobs.tags,
    jobs.idempotency_key, jobs.trace, jobs.finished_at, jobs.error_code, jobs.error,
    jobs.error_retryable, jobs.key_id,
    job_inputs.input, job_inputs.runtime_config, job_inputs.metadata
"""
_FREE = Among(
    f"""
SELECT {_COLUMNS} FROM jobs JOIN job_inputs ON job_inputs.job_seq = jobs.seq
WHERE jobs.seq = ANY(:keys) AND jobs.status = 'pending' AND NOT jobs.delayed
ORDER BY jobs.seq /*+ FOR NO KEY UPDATE OF jobs SKIP LOCKED */
""",  # noqa: S608  constants only
    INT,
)
_CLAIMED = Among(
    f"""
SELECT {_COLUMNS} FROM jobs JOIN job_inputs ON job_inputs.job_seq = jobs.seq
WHERE jobs.job_id = ANY(:keys) ORDER BY jobs.seq
""",  # noqa: S608  constants only
    TEXT,
)


def claim(
    tx: Transaction,
    requests: Sequence[ClaimRequest],
    *,
    lease_seconds: float,
    most_lost: int,
    shares: Shares,
) -> list[Claimed | CortexError]:
    """Lease to each up to `max_jobs` jobs that fit, in the order in which they asked.

    The answer is WorkerUnknownError or WorkerReplacedError where it may have none.
    """
    workers = {
        row["worker_id"]: fields_of(row)
        for row in tx.among(_WORKERS, {request.worker_id for request in requests})
    }
    answered = _answered(tx, requests)
    heads = Heads(tx, most_lost, shares)
    answers: dict[int, Claimed | CortexError] = {}
    choices: dict[int, Choice] = {}
    for place, request in enumerate(requests):
        worker = workers.get(request.worker_id)
        refusal = _refusal(worker, request)
        if worker is None or refusal is not None:
            answers[place] = refusal or WorkerUnknownError(request.worker_id)
            continue
        _note(tx, worker, request)
        before = answered.get((request.worker_id, request.request_id))
        if before:
            answers[place] = Claimed(_leased_before(tx, before))
        elif worker["desired_state"] != "active":
            answers[place] = Claimed([])
        else:
            fit = Fit.of(worker["capabilities"], worker["tags"])
            choices[place] = Choice(tx, request, fit, heads)
    answers.update(_give(tx, choices, heads, lease_seconds))
    return [answers[place] for place in range(len(requests))]


def _refusal(worker: dict[str, Any] | None, request: ClaimRequest) -> CortexError | None:
    if worker is None:
        return WorkerUnknownError(request.worker_id)
    if request.instance_id and worker["instance_id"] != request.instance_id:
        # Were it told to register, two processes of one id would take each other's jobs for ever.
        return WorkerReplacedError(request.worker_id)
    return None


def _answered(
    tx: Transaction, requests: Iterable[ClaimRequest]
) -> Mapping[tuple[str, str], list[str]]:
    """What the same requests were answered before, their worker not having heard of it yet."""
    asked = {(one.worker_id, one.request_id) for one in requests if one.request_id}
    answered: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    workers, told = {worker_id for worker_id, _ in asked}, {request for _, request in asked}
    for row in tx.among(_ANSWERED, workers, requests=told):
        is_unheard = row["status"] == JobState.ACQUIRED.value and not row["renewed"]
        if is_unheard and row["lease_expires_at"] > tx.now:
            answered[row["worker_id"], row["request_id"]].append(row["job_id"])
    return answered


def _note(tx: Transaction, worker: dict[str, Any], request: ClaimRequest) -> None:
    """Keep what the worker says about itself, where that is news."""
    worker_id = request.worker_id
    if worker["lost"] or tx.now - worker["last_seen"] >= SEEN_AGAIN_SECONDS:
        tx.run(_TOUCH, {"worker_id": worker_id, "now": tx.now})
        worker.update(lost=False, last_seen=tx.now)
    loaded = {model.key: model.load_seconds for model in request.models}
    if loaded != load_seconds(worker["models"]):
        worker["models"] = _models(request.models)
        tx.run(_NOTE_MODELS, {"worker_id": worker_id, "models": worker["models"]})
    most = worker["offered_memory_mb"], worker["offered_gpu_memory_mb"]
    offer = (
        max(most[0], request.memory_available_mb),
        max(most[1], request.gpu_memory_available_mb),
    )
    if offer != most:
        told = {"worker_id": worker_id, "memory_mb": offer[0], "gpu_memory_mb": offer[1]}
        tx.run(_NOTE_OFFER, told)
        worker.update(offered_memory_mb=offer[0], offered_gpu_memory_mb=offer[1])


def _models(models: Iterable[LoadedModel]) -> str:
    """As a heartbeat's models are kept."""
    told = [
        {
            "family": model.key.family,
            "version": model.key.version,
            "runtime": model.key.runtime,
            "load_seconds": model.load_seconds,
            "memory_mb": model.memory_mb,
            "active_jobs": model.active_jobs,
        }
        for model in models
    ]
    return json.dumps(told)


def _give(
    tx: Transaction, choices: Mapping[int, Choice], heads: Heads, lease_seconds: float
) -> dict[int, Claimed]:
    """Let workers have what they choose; the same request asked twice is answered twice."""
    first: dict[tuple[str, str], int] = {}
    twins: dict[int, int] = {}
    for place, choice in choices.items():
        request = choice.request
        if request.request_id:
            earlier = first.setdefault((request.worker_id, request.request_id), place)
            if earlier != place:
                twins[place] = earlier
    choosing = {place: choice for place, choice in choices.items() if place not in twins}
    rows = _choose(tx, list(choosing.values()), heads)
    ledger = Ledger(tx)
    given: dict[int, list[LoadedJob]] = {}
    for place, choice in choosing.items():
        given[place] = [
            _acquire(ledger, rows[job["seq"]], choice.request, lease_seconds) for job in choice.jobs
        ]
    ledger.write()
    answers = {}
    for place, jobs in given.items():
        leased = [_leased(tx, loaded) for loaded in jobs]
        answers[place] = Claimed(leased, choices[place].again_in_seconds)
    return answers | {place: answers[earlier] for place, earlier in twins.items()}


def _choose(tx: Transaction, choices: Sequence[Choice], heads: Heads) -> dict[int, Row]:
    """Let claims choose one after the other; return the rows of all that was chosen, locked.

    Where others were faster for all that was looked at, it is worth asking again soon: they may
    leave some.
    """
    rows: dict[int, Row] = {}
    open_choices = choices
    for number in range(MAX_ROUNDS):
        for choice in open_choices:
            if number:
                choice.give_back()
        for choice in open_choices:
            choice.choose()
        chosen = [job["seq"] for choice in open_choices for job in choice.jobs]
        rows.update((row["seq"], row) for row in tx.among(_FREE, chosen))
        open_choices = [choice for choice in open_choices if choice.drop_lost(rows)]
        if not open_choices:
            break
    for choice in choices:
        if heads.lost and not choice.jobs:
            choice.again_in_seconds = AGAIN_AFTER_OTHERS_SECONDS
    return rows


def _acquire(ledger: Ledger, row: Row, request: ClaimRequest, lease_seconds: float) -> LoadedJob:
    loaded = LoadedJob(row)
    loaded.request_id = request.request_id or None
    void = loaded.job.attempt > 0 and _begins_again(ledger.tx, row)
    ledger.step(loaded, Claim(request.worker_id, lease_seconds, void))
    return loaded


def _begins_again(tx: Transaction, row: Row) -> bool:
    """Whether what a reader has is void; finished rows are so only after a retry by hand."""
    if row["job_type"] in ROW_JOB_TYPES:
        return bool(row["attempt"] == row["void_attempts"])
    return begins_again(tx, row)


def _leased_before(tx: Transaction, job_ids: Sequence[str]) -> list[LeasedJob]:
    return [_leased(tx, LoadedJob(row)) for row in tx.among(_CLAIMED, job_ids)]


def _leased(tx: Transaction, loaded: LoadedJob) -> LeasedJob:
    job = loaded.job
    assert job.lease_expires_at is not None
    assert job.deadline_at is not None
    fields = fields_of(loaded.row)
    fields.update(
        status=job.state,
        attempt=job.attempt,
        worker_id=job.worker_id,
        status_message=job.status_message,
        started_at=loaded.started_at,
    )
    brought = job.attempt > 1
    return LeasedJob(
        job_from_row(fields),
        lease_seconds=job.lease_expires_at - tx.now,
        time_left_seconds=max(0.001, job.deadline_at - tx.now),
        rows=finished_rows(tx, fields) if brought else (),
        progress=progress_of(tx, fields) if brought else None,
    )
