"""`mnemos doctor`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from ..errors import ExitCode
from ..options import cortex_option, engram_options, genome_option, output_option
from ..output import Format, note, to_json

if TYPE_CHECKING:
    from ..engram import EngramTarget
    from ..health.check import Finding

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor")
@output_option()
@cortex_option()
@genome_option()
@engram_options
def doctor(
    cortex_url: str, genome_url: str, engram: EngramTarget, data_dir: Path, output: Format
) -> None:
    """Check this machine and say what is missing.

    Every line is ok, warn or fail, with what to do about it. The exit status is 1 when
    something fails.

    \b
    Examples
      mnemos doctor
      mnemos doctor -o json
    """
    from ..http import run_async

    findings = run_async(_examine(cortex_url, genome_url, engram, data_dir))
    failed = [finding for finding in findings if finding.verdict == "fail"]
    if output is Format.JSON:
        listed = [finding.as_json() for finding in findings]
        click.echo(to_json({"ok": not failed, "checks": listed}, indent=2))
    else:
        _print(findings)
    if failed:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        word = click.style(finding.verdict.ljust(4), fg=_COLOURS[finding.verdict])
        click.echo(f"{word}  {finding.check.ljust(width)}  {finding.detail}")
        if finding.fix:
            click.echo(f"{' ' * (width + 6)}  → {finding.fix}")
    bad = sum(finding.verdict != "ok" for finding in findings)
    note(f"\n{bad} of {len(findings)} checks want attention." if bad else "\nAll is well.")


async def _examine(
    cortex_url: str, genome_url: str, engram: EngramTarget, data_dir: Path
) -> list[Finding]:
    from ..health import machine, services

    async with asyncio.TaskGroup() as tasks:
        packages = tasks.create_task(machine.check_packages())
        cortex = tasks.create_task(services.check_service("CORTEX", cortex_url, "/ready"))
        genome = tasks.create_task(services.check_service("GENOME", genome_url, "/health/ready"))
        storage = tasks.create_task(services.check_engram(engram))
        local = tasks.create_task(asyncio.to_thread(_local, data_dir))
    reached = {
        port
        for url, task in ((cortex_url, cortex), (genome_url, genome))
        if task.result().verdict == "ok" and (port := urlsplit(url).port)
    }
    return [
        *local.result(),
        *packages.result(),
        *_ports(reached),
        cortex.result(),
        genome.result(),
        storage.result(),
    ]


def _local(data_dir: Path) -> list[Finding]:
    from ..health import machine

    return [
        machine.check_python(),
        machine.check_memory(),
        machine.check_disk(data_dir),
        machine.check_gpu(),
        *machine.check_echo(),
    ]


def _ports(reached: set[int]) -> list[Finding]:
    """CORTEX's gRPC and the worker's health are up whenever CORTEX's HTTP is."""
    from ..health import machine

    return [
        machine.check_port(port, flag, served=beside in reached)
        for port, flag, beside in (
            (8080, "--http-port", 8080),
            (9090, "--grpc-port", 8080),
            (8081, "--genome-port", 8081),
            (8000, "--worker-port", 8080),
        )
    ]
