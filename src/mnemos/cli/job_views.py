"""How jobs look to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    Column("type", lambda row: _unusual_type(row) or "-"),
    Column("submitted", lambda row: ago(row["submitted_at"])),
    Column("ran", run_time, right=True),
    Column("attempt", lambda row: row["attempt"], right=True),
    Column("worker", lambda row: row.get("worker_id")),
    Column("why", lambda row: shorten(_why_ended(row), 60)),
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
        unfinished = job["status"] != "completed"
        click.echo("\nIt had got to:" if unfinished else "")
        print_result(job)


def print_result(job: Mapping[str, Any]) -> None:
    """A job's answer; of a list, such as rows or choices, each item begins a line."""
    result = job.get("result")
    if isinstance(result, dict) and list(result) == ["result_reference"]:
        size = result["result_reference"].get("size_bytes", "many")
        click.echo(f"({size} bytes of JSON; get them with: mnemos jobs result {job['job_id']})")
    elif isinstance(result, str):
        click.echo(result)
    elif isinstance(result, list) and not all(isinstance(item, float) for item in result):
        _print_items(result)
    elif result is not None:
        click.echo(to_json(result, indent=2))
    if scores := _scores(job):
        click.echo(f"\nscores: {scores}")


def _print_items(items: Sequence[Any]) -> None:
    width = len(str(len(items)))
    for number, item in enumerate(items):
        text = "not done" if item is None else item if isinstance(item, str) else to_json(item)
        click.echo(f"{click.style(str(number).rjust(width), bold=True)}  {text}")


def _fields(job: Mapping[str, Any]) -> list[tuple[str, object]]:
    error = job.get("error") or {}
    told = job.get("output_metadata") or {}
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
    crashes, lost = job.get("engine_crashes"), job.get("lost_workers")
    optional = (
        ("type", _unusual_type(job)),
        ("engines", f"{crashes} died under this job" if crashes else None),
        ("workers", f"{lost} lost under this job" if lost else None),
        ("group", job.get("group")),
        ("key", job.get("idempotency_key")),
        ("message", job.get("status_message")),
        ("waits", job.get("waiting_reason")),
        ("error", _why(error.get("code"), error.get("message")) if error else None),
        ("digest", told.get("model_digest")),
        ("measured", _numbers(told)),
        ("", _numbers(job.get("metrics"))),
    )
    return fields + [(name, value) for name, value in optional if value]


def _unusual_type(job: Mapping[str, Any]) -> str:
    """The job's type where it needs saying."""
    job_type = str(job.get("job_type") or "inference")
    return "" if job_type == "inference" else job_type


def _question(given: Mapping[str, Any]) -> str:
    for name in ("prompt", "messages", "inputs"):
        if given.get(name) is not None:
            value = given[name]
            if name == "inputs":
                return f"{len(value)} rows, the first: {shorten(to_json(value[0]), 150)}"
            return shorten(value if isinstance(value, str) else to_json(value), 200)
    return ""


def _numbers(values: Mapping[str, Any] | None) -> str:
    return ", ".join(
        f"{name} {round(value, 1) if isinstance(value, float) else value}"
        for name, value in (values or {}).items()
        if name != "model_digest" and not isinstance(value, dict | list)
    )


def _scores(job: Mapping[str, Any]) -> str:
    """An evaluation's means."""
    told = (job.get("output_metadata") or {}).get("scores") or {}
    scored = told.get("rows_scored")
    values = ", ".join(
        f"{name} {value:.4g}" for name, value in told.items() if isinstance(value, float)
    )
    return f"{values} over {scored} rows" if values else ""


def _why_ended(job: Mapping[str, Any]) -> str:
    error = job.get("error") or {}
    return _why(error.get("code"), error.get("message"))


def _why(code: str | None, message: str | None) -> str:
    return " ".join(word for word in (f"{code}:" if code else "", message or "") if word)


def _attempt_time(row: Mapping[str, Any]) -> str:
    return run_time({"started_at": row.get("started_at"), "finished_at": row.get("ended_at")})
