"""What the parts of one platform show one another, where others may reach them."""

from __future__ import annotations

import ipaddress
import os
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import UsageFault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .options import UpOptions


@dataclass(frozen=True, kw_only=True)
class PlatformTokens:
    """What workers show CORTEX, and what everybody shows GENOME; None where nothing is asked."""

    worker: str | None = field(default=None, repr=False)
    genome: str | None = field(default=None, repr=False)
    tls: bool = False
    """Whether CORTEX speaks TLS."""

    @classmethod
    def of(cls, options: UpOptions, environment: Mapping[str, str] = os.environ) -> PlatformTokens:
        """Read the environment's, and draw a token for the workers that CORTEX would ask for.

        Raises UsageFault where the platform would be open to other machines.
        """
        genome = environment.get("GENOME_TOKEN") or None
        worker = environment.get("CORTEX_WORKER_TOKEN") or None
        exposed = not _is_loopback(options.host)
        if exposed and genome is None and environment.get("GENOME_AUTH") != "off":
            raise UsageFault(
                f"--host {options.host} lets other machines in, which takes secrets.",
                code="not_protected",
                hint="set CORTEX_ADMIN_KEY and GENOME_TOKEN, each as `openssl rand -hex 32` says; "
                "or CORTEX_AUTH=off and GENOME_AUTH=off",
            )
        asked = exposed and "CORTEX_TLS_CLIENT_CA" not in environment
        if asked or environment.get("CORTEX_AUTH") == "required":
            worker = worker or secrets.token_urlsafe(32)
        return cls(worker=worker, genome=genome, tls="CORTEX_TLS_CERT" in environment)

    @cached_property
    def for_cortex(self) -> dict[str, Any]:
        """CORTEX's settings."""
        named = {"worker_token": self.worker, "genome_token": self.genome}
        return {name: token for name, token in named.items() if token is not None}

    @cached_property
    def for_workers(self) -> dict[str, str]:
        """The workers' variables."""
        named = {
            "NEURON_CORTEX_TOKEN": self.worker,
            "NEURON_GENOME_TOKEN": self.genome,
            "NEURON_CORTEX_TLS": "true" if self.tls else None,
        }
        return {name: token for name, token in named.items() if token is not None}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
