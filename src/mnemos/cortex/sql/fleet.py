"""What is known of workers, and what is asked of them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..errors import WorkerNotFoundError, WorkerReplacedError, WorkerUnknownError
from ..notifier import worker_topic
from ..records import (
    ActionRecord,
    AttemptRef,
    DesiredState,
    HeartbeatRecord,
    Registration,
    Release,
    WorkerRecord,
)
from .attempts import release_attempt
from .carry_out import Ledger, Random
from .engine import LOCK, Connection, fields_of
from .jobs_loaded import HELD, JOB_COLUMNS, LOCK_JOBS, LoadedJob
from .people import add_action
from .reaping import lose_attempts
from .transaction import Row, Transaction

_KNOWN_INSTANCE = f"""
SELECT instance_id FROM workers WHERE worker_id = :worker_id {LOCK}
"""  # noqa: S608  constants only
_FIND = "SELECT * FROM workers WHERE worker_id = :worker_id"
_FIND_AND_LOCK = f"{_FIND} {LOCK}"
_HELD = f"""
SELECT {JOB_COLUMNS} FROM {HELD} AND attempts.worker_id = :worker_id
    AND jobs.worker_id = :worker_id AND jobs.lease_expires_at IS NOT NULL
ORDER BY attempts.job_seq {LOCK_JOBS}
"""  # noqa: S608  constants only
_HELD_BY = f"SELECT jobs.job_id FROM {HELD} AND attempts.worker_id = :worker_id"  # noqa: S608
_HELD_IDS = f"""
SELECT attempts.worker_id, jobs.job_id FROM {HELD} ORDER BY attempts.worker_id, attempts.job_seq
"""  # noqa: S608  constants only
_UPSERT = """
INSERT INTO workers (worker_id, instance_id, hostname, ip_address, version, capabilities,
    resources, tags, models, status, status_reason, desired_state, lost, total_jobs_completed,
    total_jobs_failed, last_heartbeat, last_seen, registered_at)
VALUES (:worker_id, :instance_id, :hostname, :ip_address, :version, :capabilities, :resources,
    :tags, '[]', 'initializing', '', 'active', FALSE, 0, 0, :now, :now, :now)
ON CONFLICT (worker_id) DO UPDATE SET instance_id = excluded.instance_id,
    hostname = excluded.hostname, ip_address = excluded.ip_address, version = excluded.version,
    capabilities = excluded.capabilities, resources = excluded.resources, tags = excluded.tags,
    lost = FALSE, last_seen = excluded.last_seen, last_heartbeat = excluded.last_heartbeat
RETURNING registered_at
"""
_NEW_INSTANCE = """
UPDATE workers SET desired_state = :desired, models = '[]', status = 'initializing',
    status_reason = '', offered_memory_mb = 0, offered_gpu_memory_mb = 0
WHERE worker_id = :worker_id
"""
_HEARTBEAT = """
UPDATE workers SET status = :status, status_reason = :reason, models = :models,
    resources = COALESCE(:resources, resources), lost = FALSE, last_heartbeat = :now,
    last_seen = :now
WHERE worker_id = :worker_id
RETURNING worker_id
"""
_TOUCH = """
UPDATE workers SET last_seen = :now, lost = FALSE WHERE worker_id = :worker_id RETURNING worker_id
"""
_ACKNOWLEDGE = "DELETE FROM actions WHERE worker_id = :worker_id AND action_id = :action_id"
_ACTIONS = "SELECT * FROM actions WHERE worker_id = :worker_id ORDER BY seq"
_DIRECT = """
UPDATE workers SET desired_state = :desired WHERE worker_id = :worker_id RETURNING worker_id
"""
_REPLACE = """
DELETE FROM actions WHERE worker_id = :worker_id
    AND kind IN ('pause', 'resume', 'drain', 'shutdown', 'restart')
"""
_STILL_HELD = """
SELECT job_id FROM jobs
WHERE job_id = :job_id AND attempt = :attempt AND lease_expires_at IS NOT NULL
"""


def register(tx: Transaction, new: Registration, most_lost: int, random: Random) -> float:
    """Make a worker known. Another instance under its id means that the old one is gone."""
    known = tx.one(_FIND_AND_LOCK, {"worker_id": new.worker_id})
    row = tx.one(
        _UPSERT,
        {
            "worker_id": new.worker_id,
            "instance_id": new.instance_id,
            "hostname": new.hostname,
            "ip_address": new.ip_address,
            "version": new.version,
            "capabilities": new.capabilities,
            "resources": new.resources,
            "tags": new.tags,
            "now": tx.now,
        },
    )
    assert row is not None
    if known is not None and known["instance_id"] != new.instance_id:
        _replace_instance(tx, known, most_lost, random)
    return float(row["registered_at"])


def _replace_instance(tx: Transaction, known: Row, most_lost: int, random: Random) -> None:
    worker_id = known["worker_id"]
    held = tx.all(_HELD, {"worker_id": worker_id})
    lose_attempts(tx, held, "it started anew", most_lost, random)
    tx.run("DELETE FROM actions WHERE worker_id = :worker_id", {"worker_id": worker_id})
    paused = known["desired_state"] == DesiredState.PAUSED.value
    desired = DesiredState.PAUSED if paused else DesiredState.ACTIVE
    tx.run(_NEW_INSTANCE, {"worker_id": worker_id, "desired": desired.value})
    if paused:
        add_action(tx, worker_id, "pause", "paused before the worker started anew")


def was_replaced(tx: Transaction, worker_id: str, instance_id: str) -> bool:
    """Whether another process has registered under this one's worker id."""
    known = tx.one(_KNOWN_INSTANCE, {"worker_id": worker_id})
    return known is not None and bool(instance_id) and known["instance_id"] != instance_id


def deregister(tx: Transaction, worker_id: str, reason: str, instance_id: str) -> None:
    """Forget a worker; what it still holds goes back to the queue."""
    if was_replaced(tx, worker_id, instance_id):
        return
    ledger = Ledger(tx)
    for row in tx.all(_HELD, {"worker_id": worker_id}):
        release = Release(row["job_id"], row["attempt"], reason or "the worker left")
        release_attempt(ledger, LoadedJob(row), worker_id, release)
    ledger.write()
    tx.run("DELETE FROM workers WHERE worker_id = :worker_id", {"worker_id": worker_id})
    tx.topics.add(worker_topic(worker_id))


def heartbeat(tx: Transaction, beat: HeartbeatRecord) -> list[ActionRecord]:
    """Note how a worker is; return what it is still asked to do."""
    if was_replaced(tx, beat.worker_id, beat.instance_id):
        raise WorkerReplacedError(beat.worker_id)
    known = tx.one(
        _HEARTBEAT,
        {
            "worker_id": beat.worker_id,
            "status": beat.status,
            "reason": beat.status_reason,
            "models": beat.models,
            "resources": beat.resources,
            "now": tx.now,
        },
    )
    if known is None:
        raise WorkerUnknownError(beat.worker_id)
    for action_id in beat.acknowledged_actions:
        tx.run(_ACKNOWLEDGE, {"worker_id": beat.worker_id, "action_id": action_id})
    return _open_actions(tx, beat.worker_id)


def touch(tx: Transaction, worker_id: str) -> None:
    """Note that a worker was heard."""
    if tx.one(_TOUCH, {"worker_id": worker_id, "now": tx.now}) is None:
        raise WorkerUnknownError(worker_id)


def open_actions(tx: Transaction, worker_id: str) -> list[ActionRecord]:
    """Return what a worker is still asked to do; cancels of ended attempts are dropped."""
    if tx.one(_FIND, {"worker_id": worker_id}) is None:
        raise WorkerUnknownError(worker_id)
    return _open_actions(tx, worker_id)


def _open_actions(tx: Transaction, worker_id: str) -> list[ActionRecord]:
    actions = []
    for row in tx.all(_ACTIONS, {"worker_id": worker_id}):
        refs = [AttemptRef(job_id, attempt) for job_id, attempt in json.loads(row["jobs"])]
        held = [ref for ref in refs if _is_held(tx, ref)]
        if row["kind"] == "cancel_jobs" and not held:
            parameters = {"worker_id": worker_id, "action_id": row["action_id"]}
            tx.run(_ACKNOWLEDGE, parameters)
            continue
        actions.append(_action(row, held))
    return actions


def _is_held(tx: Transaction, ref: AttemptRef) -> bool:
    return tx.one(_STILL_HELD, {"job_id": ref.job_id, "attempt": ref.attempt}) is not None


def _action(row: Row, refs: Sequence[AttemptRef]) -> ActionRecord:
    return ActionRecord(
        action_id=row["action_id"],
        worker_id=row["worker_id"],
        kind=row["kind"],
        reason=row["reason"],
        jobs=refs,
        config=row["config"],
        deadline_seconds=row["deadline_seconds"],
    )


def direct(
    tx: Transaction,
    worker_id: str,
    kind: str,
    desired: DesiredState,
    reason: str,
    deadline_seconds: float | None,
) -> None:
    """Note what a person wants a worker to be, and ask it; an older wish is withdrawn."""
    if tx.one(_DIRECT, {"worker_id": worker_id, "desired": desired.value}) is None:
        raise WorkerNotFoundError(worker_id)
    tx.run(_REPLACE, {"worker_id": worker_id})
    add_action(tx, worker_id, kind, reason, deadline_seconds=deadline_seconds)


def list_workers(connection: Connection) -> list[WorkerRecord]:
    """Return all workers with what they hold, oldest registration first."""
    held: dict[str, list[str]] = {}
    for row in connection.execute(_HELD_IDS):
        held.setdefault(row["worker_id"], []).append(row["job_id"])
    rows = connection.execute("SELECT * FROM workers ORDER BY registered_at, worker_id")
    return [_worker(row, held.get(row["worker_id"], ())) for row in rows]


def get_worker(connection: Connection, worker_id: str) -> WorkerRecord:
    """Return one worker. Raises WorkerNotFoundError."""
    row = connection.execute(_FIND, {"worker_id": worker_id}).fetchone()
    if row is None:
        raise WorkerNotFoundError(worker_id)
    held = connection.execute(_HELD_BY, {"worker_id": worker_id})
    return _worker(row, [job["job_id"] for job in held])


def _worker(row: Row, held: Sequence[str]) -> WorkerRecord:
    fields = fields_of(row)
    fields["desired_state"] = DesiredState(fields["desired_state"])
    fields["lost"] = bool(fields["lost"])
    return WorkerRecord(**fields, current_jobs=held)
