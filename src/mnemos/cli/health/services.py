"""The platform's services, as far as this machine can reach them."""

from __future__ import annotations

import secrets
from importlib.metadata import version
from typing import Any

from ..engram import EngramTarget, engram_fault
from ..errors import CliError
from ..http import ServiceClient
from .check import Finding, Verdict

HEALTH_SECONDS = 5.0
PROBE = b"written by mnemos doctor"


async def check_service(service: str, url: str, ready_path: str) -> Finding:
    """Whether a service answers and is ready, and whether it is as new as we are."""
    name = service.lower()
    try:
        async with ServiceClient(service, url) as client:
            health = await client.call("GET", "/health", timeout_seconds=HEALTH_SECONDS)
            await client.call("GET", ready_path, timeout_seconds=HEALTH_SECONDS)
    except CliError as error:
        return Finding(name, Verdict.WARN, error.message, error.hint or "start it: mnemos up")
    return _judge_version(name, url, health)


def _judge_version(name: str, url: str, health: Any) -> Finding:
    theirs = health.get("version") if isinstance(health, dict) else None
    ours = version("mnemos-neuron")
    if theirs and theirs != ours:
        detail = f"{url} runs {theirs}, this is {ours}"
        return Finding(name, Verdict.WARN, detail, "use the same version on both sides")
    return Finding(name, Verdict.OK, f"{url} is ready" + (f" ({theirs})" if theirs else ""))


async def check_engram(target: EngramTarget) -> Finding:
    """Write, read and delete a small object where models are kept."""
    from mnemos.engram.errors import EngramError

    key = f".mnemos-probe/{secrets.token_hex(8)}"
    try:
        store = target.open()
        bucket = store.models_bucket
        await store.ensure_bucket(bucket)
        await store.put_bytes(bucket, key, PROBE)
        came_back = await store.get_bytes(bucket, key)
        await store.delete(bucket, key)
    except EngramError as error:
        told = engram_fault(error)
        return Finding("engram", Verdict.FAIL, told.message, told.hint or "check MNEMOS_ENGRAM_URL")
    except CliError as error:
        return Finding("engram", Verdict.FAIL, error.message, error.hint or "")
    if came_back != PROBE:
        detail = f"{target.url} gave back something else than was written"
        return Finding("engram", Verdict.FAIL, detail, "do not use this storage")
    return Finding("engram", Verdict.OK, f"{target.url} can be written, read and deleted")
