"""Jobs as CORTEX kept them up to migration 0007, in all the states that it finds them by."""

from __future__ import annotations

import json
from typing import Any

from cortex_tools import LEASE, StoreTools
from store_chaos import check_books

from mnemos.cortex.records import ClaimRequest, DeadLetters, Fence, JobFilter, Report
from mnemos.cortex.state_machine import JobState

_DEMANDS = {
    "runtime": "transformers",
    "job_type": "inference",
    "family": "tiny",
    "version": "1",
    "min_memory_mb": 0,
    "min_gpu_memory_mb": 0,
    "tags": "{}",
}
_JOB = {
    "status": "pending",
    "queued": False,
    "delayed": False,
    "attempt": 0,
    "lane_id": 1,
    "priority": 5,
    "timeout_seconds": 300,
    "retry_config": "{}",
    "request_hash": "hash",
    "size_bytes": 6,
    "retries_used": 0,
    "renewed": False,
    "next_chunk": 0,
    "cancel_requested": False,
    "next_event": 1,
}
_LINE = '{"status":"pending","attempt":0,"worker_id":null}'
_TALLIES = {
    ("status", "pending"): 2,
    ("status", "acquired"): 1,
    ("status", "completed"): 1,
    ("status", "failed"): 1,
    ("queue", "delayed"): 1,
    ("lane/1/5", "pending"): 2,
    ("lane/1/5", "running"): 1,
    ("group/g", "pending"): 1,
    ("group/g", "running"): 1,
    ("group/g", "finished"): 2,
    ("sequence", "finish"): 8,
}


def old_jobs(now: float) -> str:
    """Statements that add five jobs: waiting, delayed, held, completed and failed."""
    past = now - 60.0
    tried = {"attempt": 1, "worker_id": "wrk_a", "started_at": past}
    held = {"claim_request_id": "r1", "lease_expires_at": now + LEASE, "deadline_at": now + LEASE}
    failed = {"error_code": "internal", "error": "no", "error_retryable": False}
    jobs: list[dict[str, Any]] = [
        {"queued": True, "group_name": "g", "idempotency_key": "key"},
        {"delayed": True, "attempt": 1, "available_at": now + 5},
        {"status": "acquired", "group_name": "g", **tried, **held},
        {"status": "completed", "group_name": "g", **tried, "finished_at": past, "finish_seq": 7},
        {"status": "failed", "group_name": "g", **tried, "finished_at": past, "finish_seq": 8}
        | failed,
    ]
    lane_key = json.dumps(list(_DEMANDS.values()))
    statements = [
        _insert("lanes", lane_id=1, lane_key=lane_key, measured=False, **_DEMANDS),
        _worker(now, past),
    ]
    for seq, changes in enumerate(jobs, start=1):
        job = {**_DEMANDS, **_JOB, "submitted_at": past, "available_at": past, **changes}
        statements.append(_insert("jobs", seq=seq, job_id=f"job_{seq}", **job))
        inputs = {"input": "{}", "runtime_config": "{}", "metadata": "{}"}
        statements.append(_insert("job_inputs", job_seq=seq, **inputs))
        line = {"job_seq": seq, "sequence": 0, "kind": "state", "data": _LINE, "at": past}
        statements.append(_insert("job_events", **line))
        if job["attempt"]:
            statements.append(_attempt(seq, job["status"], past))
    for (scope, name), value in _TALLIES.items():
        statements.append(_insert("tallies", scope=scope, name=name, value=value))
    return ";\n".join(statements)


def _worker(now: float, past: float) -> str:
    texts = {"hostname": "host", "ip_address": "", "version": "1", "resources": "{}", "tags": "{}"}
    state = {"models": "[]", "status": "idle", "status_reason": "", "desired_state": "active"}
    return _insert(
        "workers",
        worker_id="wrk_a",
        instance_id="one",
        capabilities=json.dumps({"supported_runtimes": ["transformers"]}),
        lost=False,
        total_jobs_completed=1,
        total_jobs_failed=1,
        last_heartbeat=now,
        last_seen=now,
        registered_at=past,
        **texts,
        **state,
    )


def _attempt(seq: int, status: str, past: float) -> str:
    ended = status != "acquired"
    outcome = "completed" if status == "completed" else "failed"
    return _insert(
        "attempts",
        job_seq=seq,
        attempt=1,
        worker_id="wrk_a",
        started_at=past,
        ended_at=past if ended else None,
        outcome=outcome if ended else None,
        reported=ended,
    )


def _insert(table: str, **row: Any) -> str:
    told = ", ".join(_literal(value) for value in row.values())
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({told})"  # noqa: S608  for tests


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return f"'{value}'" if isinstance(value, str) else str(value)


async def check_old_jobs(tools: StoreTools) -> None:
    """They are found, and go on, each by what CORTEX finds it by today."""
    store = tools.store
    assert (await store.queue_numbers()).oldest_pending_seconds == 60.0
    listed = await store.list_jobs(JobFilter(statuses=(JobState.PENDING,)))
    assert [job.job_id for job in listed] == ["job_2", "job_1"]
    [held] = await store.list_jobs(JobFilter(statuses=(JobState.ACQUIRED,)))
    assert (await store.get_worker("wrk_a")).current_jobs == [held.job_id] == ["job_3"]
    assert [job.job_id for job in await store.group_results("g", 0, 10)] == ["job_4", "job_5"]
    [again] = await store.submit([tools.new_job(idempotency_key="key")])
    assert (again.job_id, again.created) == ("job_1", False)
    asked = ClaimRequest(worker_id="wrk_a", max_jobs=5, request_id="r1")
    assert [one.job.job_id for one in (await store.claim(asked)).jobs] == ["job_3"]
    [leased] = await tools.claim(max_jobs=5)
    assert leased.job.job_id == "job_1"
    report = Report(job_id="job_1", attempt=1, status=JobState.COMPLETED, result="1")
    assert (await store.report("wrk_a", [report]))[0].verdict is Fence.ACCEPTED
    assert [job.job_id for job in await store.group_results("g", 8, 10)] == ["job_1"]
    assert (await store.redrive(DeadLetters(), 0, 10)).jobs == 1
    assert [job.job_id for job in await store.group_results("g", 0, 10)] == ["job_4", "job_1"]
    tools.clock.turn(5)
    await store.promote_due()
    assert {one.job.job_id for one in await tools.claim(max_jobs=5)} == {"job_2", "job_5"}
    tools.clock.turn(LEASE + 1)
    assert (await store.reap()).leases_expired == 3
    await check_books(tools)
