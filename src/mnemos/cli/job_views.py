"""How jobs look to people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from .output import Column, ago, duration, print_fields, print_table, shorten, to_json


def model_name(job: Mapping[str, Any]) -> str:
    """`family:version` of a job's model."""
    model = job["model"]
    return f"{model['family']}:{model['version']}"


def run_time(job: Mapping[str, Any]) -> str:
    """How long a job ran."""
    started, finished = job.get("started_at"), job.get("finished_at")
    if not started or not finished:
        return "-"
    seconds = datetime.fromisoformat(finished) - datetime.fromisoformat(started)
    return duration(seconds.total_seconds())


JOB_COLUMNS = [
    Column("job", lambda row: row["job_id"]),
    Column("status", lambda row: row["status"]),
    Column("model", model_name),
    Column("submitted", lambda row: ago(row["submitted_at"])),
    Column("ran", run_time, right=True),
    Column("attempt", lambda row: row["attempt"], right=True),
    Column("worker", lambda row: row.get("worker_id")),
    Column("why", lambda row: shorten((row.get("error") or {}).get("message") or "", 60)),
]


def print_job(job: Mapping[str, Any]) -> None:
    """One job: its fields, its attempts, its answer."""
    print_fields(_fields(job))
    if job.get("attempts"):
        click.echo()
        print_table(
            job["attempts"],
            [
                Column("attempt", lambda row: row["attempt"], right=True),
                Column("outcome", lambda row: row.get("outcome") or "running"),
                Column("worker", lambda row: row.get("worker_id")),
                Column("started", lambda row: ago(row.get("started_at"))),
                Column("ran", _attempt_time, right=True),
                Column("why", lambda row: _why(row.get("error_code"), row.get("error"))),
            ],
        )
    if job.get("result") is not None:
        result = job["result"]
        click.echo(f"\n{result if isinstance(result, str) else to_json(result, indent=2)}")


def _fields(job: Mapping[str, Any]) -> list[tuple[str, object]]:
    error = job.get("error") or {}
    fields: list[tuple[str, object]] = [
        ("job", job["job_id"]),
        ("status", job["status"]),
        ("model", f"{model_name(job)} on {job['model'].get('runtime')}"),
        ("asked", _question(job.get("input") or {})),
        ("priority", job["priority"]),
        ("submitted", ago(job["submitted_at"])),
        ("ran", run_time(job)),
        ("worker", job.get("worker_id")),
        ("retries", f"{job.get('retries_used', 0)} used"),
    ]
    optional = (
        ("group", job.get("group")),
        ("key", job.get("idempotency_key")),
        ("message", job.get("status_message")),
        ("waits", job.get("waiting_reason")),
        ("error", _why(error.get("code"), error.get("message")) if error else None),
        ("measured", _numbers(job.get("output_metadata"))),
        ("", _numbers(job.get("metrics"))),
    )
    return fields + [(name, value) for name, value in optional if value]


def _question(given: Mapping[str, Any]) -> str:
    for name in ("prompt", "messages", "inputs"):
        if given.get(name) is not None:
            value = given[name]
            return shorten(value if isinstance(value, str) else to_json(value), 200)
    return ""


def _numbers(values: Mapping[str, Any] | None) -> str:
    return ", ".join(
        f"{name} {round(value, 1) if isinstance(value, float) else value}"
        for name, value in (values or {}).items()
        if not isinstance(value, dict | list)
    )


def _why(code: str | None, message: str | None) -> str:
    return " ".join(word for word in (f"{code}:" if code else "", message or "") if word)


def _attempt_time(row: Mapping[str, Any]) -> str:
    return run_time({"started_at": row.get("started_at"), "finished_at": row.get("ended_at")})
