"""`mnemos workers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from ..durations import seconds_option
from ..errors import ExitCode
from ..lazy import SuggestingGroup
from ..options import cortex_option, output_option
from ..output import (
    Column,
    Format,
    ago,
    duration,
    emit_record,
    emit_rows,
    print_fields,
    print_table,
    shorten,
)


@click.group("workers", cls=SuggestingGroup)
def workers() -> None:
    """See and steer the workers.

    \b
    Examples
      mnemos workers list
      mnemos workers show wrk_01h…
      mnemos workers drain wrk_01h…
    """


@workers.command("list")
@output_option(listing=True)
@cortex_option()
def list_workers(cortex_url: str, output: Format) -> None:
    """List all workers that CORTEX knows.

    \b
    Examples
      mnemos workers list
      mnemos workers list -o name
    """
    from ..http import CortexClient, run_async

    async def fetch() -> list[dict[str, Any]]:
        async with CortexClient(cortex_url) as cortex:
            return await cortex.workers()

    columns = [
        Column("worker", lambda row: row["worker_id"]),
        Column("status", lambda row: row["status"]),
        Column("host", lambda row: row["hostname"]),
        Column("jobs", _slots, right=True),
        Column("done", lambda row: row["total_jobs_completed"], right=True),
        Column("failed", lambda row: row["total_jobs_failed"], right=True),
        Column("models", lambda row: ", ".join(map(_model_name, row.get("models") or []))),
        Column("heartbeat", lambda row: ago(row["last_heartbeat"])),
        Column("note", lambda row: shorten(_note(row), 60)),
    ]
    emit_rows(
        run_async(fetch()),
        columns,
        output,
        name=lambda row: str(row["worker_id"]),
        key="workers",
        empty="No worker is registered; start one with: mnemos up",
    )


@workers.command("show")
@click.argument("worker_id")
@output_option()
@cortex_option()
def show_worker(worker_id: str, cortex_url: str, output: Format) -> None:
    """Show one worker: what it can do, what it does, how it is.

    \b
    Examples
      mnemos workers show wrk_01h…
      mnemos workers show wrk_01h… -o json
    """
    from ..http import CortexClient, run_async

    async def fetch() -> dict[str, Any]:
        async with CortexClient(cortex_url) as cortex:
            return await cortex.worker(worker_id)

    found = run_async(fetch())
    if output is not Format.TABLE:
        emit_record(found, output)
        return
    _print_worker(found)


def _print_worker(found: Mapping[str, Any]) -> None:
    capabilities = found.get("capabilities") or {}
    fields: list[tuple[str, object]] = [
        ("worker", found["worker_id"]),
        ("status", found["status"]),
        *([("because", found["status_reason"])] if found.get("status_reason") else []),
        ("wanted", found.get("desired_state")),
        ("host", f"{found['hostname']} ({found.get('ip_address') or '?'})"),
        ("version", found.get("version")),
        ("runtimes", ", ".join(capabilities.get("supported_runtimes") or [])),
        ("jobs", _slots(found)),
        ("tags", ", ".join(f"{k}={v}" for k, v in (found.get("tags") or {}).items())),
        ("resources", _resources(found.get("resources") or {})),
        ("completed", found["total_jobs_completed"]),
        ("failed", found["total_jobs_failed"]),
        ("heartbeat", ago(found["last_heartbeat"])),
        ("registered", ago(found["registered_at"])),
        ("running", "\n".join(found.get("current_jobs") or [])),
    ]
    fields += [(f"no {name}", reason) for name, reason in _unavailable(found).items()]
    print_fields(fields)
    if found.get("models"):
        click.echo()
        print_table(
            found["models"],
            [
                Column("model", _model_name),
                Column("runtime", lambda row: row.get("runtime")),
                Column("loaded in", lambda row: duration(row.get("load_seconds", 0)), right=True),
                Column("memory", lambda row: f"{row.get('memory_mb', 0)} MB", right=True),
                Column("jobs", lambda row: row.get("active_jobs", 0), right=True),
            ],
        )


def _note(row: Mapping[str, Any]) -> str:
    """What a person should know of a worker at a glance: why it is as it is, what it lacks."""
    lacks = [f"no {name}: {reason}" for name, reason in _unavailable(row).items()]
    return "; ".join([*filter(None, [row.get("status_reason")]), *lacks])


def _unavailable(row: Mapping[str, Any]) -> Mapping[str, str]:
    reasons: Mapping[str, str] = (row.get("capabilities") or {}).get("unavailable_runtimes") or {}
    return reasons


def _slots(row: Mapping[str, Any]) -> str:
    most = (row.get("capabilities") or {}).get("max_concurrent_jobs", "?")
    return f"{len(row.get('current_jobs') or [])}/{most}"


def _model_name(row: Mapping[str, Any]) -> str:
    return f"{row['family']}:{row['version']}"


def _resources(resources: Mapping[str, Any]) -> str:
    if not resources:
        return ""
    gigabytes = resources.get("memory_total_mb", 0) / 1024
    free = resources.get("memory_available_mb", 0) / 1024
    words = [
        f"{resources.get('cpu_count', '?')} CPUs at {resources.get('cpu_percent', 0):.0f} %",
        f"{free:.1f} of {gigabytes:.1f} GB RAM free",
        f"{resources.get('disk_available_gb', 0):.0f} GB disk free",
    ]
    words += [
        f"{gpu['name']} ({gpu['available_memory_mb']} of {gpu['total_memory_mb']} MB free)"
        for gpu in resources.get("gpus") or []
    ]
    return ", ".join(words)


def _steer(
    action: str, worker_ids: Sequence[str], cortex_url: str, output: Format, done: str, **said: Any
) -> None:
    """Ask the same of each worker, and leave with the status of the last refusal."""
    from ..http import CortexClient, run_async
    from ..steering import steer

    async def send() -> ExitCode:
        async with CortexClient(cortex_url) as cortex:
            return await steer(
                worker_ids,
                lambda worker_id: cortex.worker_action(worker_id, action, said),
                output,
                key="workers",
                sentence=lambda worker_id, _worker: f"{worker_id} {done}.",
            )

    raise click.exceptions.Exit(run_async(send()))


@workers.command("drain")
@click.argument("worker_ids", nargs=-1, required=True, metavar="WORKER_ID...")
@click.option(
    "--deadline",
    "deadline_seconds",
    callback=seconds_option(longest_seconds=86_400),
    metavar="DURATION",
    help="How long its jobs may still take, as 30, 90s or 5m.  [default: what the worker allows]",
)
@click.option("--reason", default="", help="Why; the worker logs it.  [default: none]")
@output_option()
@cortex_option()
def drain_workers(
    worker_ids: tuple[str, ...],
    deadline_seconds: float | None,
    reason: str,
    output: Format,
    cortex_url: str,
) -> None:
    """Let workers finish their jobs, take no more, and leave.

    A job that cannot finish by the deadline is handed back with its progress as soon as that is
    clear, and goes on elsewhere. A second drain with a nearer deadline hastens the first.

    \b
    Examples
      mnemos workers drain wrk_01h…
      mnemos workers drain wrk_01h… --deadline 30
      mnemos workers drain wrk_01h… wrk_02h… --deadline 5m --reason "new driver"
    """
    said = {"reason": reason, "deadline_seconds": deadline_seconds}
    within = "" if deadline_seconds is None else f" within {duration(deadline_seconds)}"
    _steer(
        "drain",
        worker_ids,
        cortex_url,
        output,
        f"finishes its jobs or hands them back{within}, and takes no more",
        **{name: value for name, value in said.items() if value not in (None, "")},
    )


def _add_action(action: str, done: str, purpose: str) -> None:
    @click.argument("worker_ids", nargs=-1, required=True, metavar="WORKER_ID...")
    @output_option()
    @cortex_option()
    def act(worker_ids: tuple[str, ...], output: Format, cortex_url: str) -> None:
        _steer(action, worker_ids, cortex_url, output, done)

    act.__doc__ = f"{purpose}\n\n\b\nExamples\n  mnemos workers {action} wrk_01h…"
    workers.command(action)(act)


_add_action("pause", "takes no more jobs until it is resumed", "Keep new jobs from a worker.")
_add_action("resume", "takes jobs again", "Let a paused or drained worker take jobs again.")
