"""Where models' files are kept, as the command line names it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CliError, Unreachable, UsageFault

if TYPE_CHECKING:
    from mnemos.engram.errors import EngramError
    from mnemos.engram.store import ObjectStore


@dataclass(frozen=True)
class EngramTarget:
    """A storage's URL, endpoint and (from the environment only, never shown) keys."""

    url: str
    endpoint: str | None = None
    variables: str = "MNEMOS_ENGRAM"
    """What the names of the variables with its keys begin with."""

    @classmethod
    def of(cls, url: str | None, endpoint: str | None, data_dir: Path) -> EngramTarget:
        """What flags and environment name; a folder of the data directory otherwise."""
        return cls(url or f"file://{data_dir / 'engram'}", endpoint)

    def open(self) -> ObjectStore:
        """The storage behind the URL; asks no server. Raises UsageFault for a wrong URL."""
        from pydantic import SecretStr

        from mnemos.engram.errors import EngramError
        from mnemos.engram.store import ObjectStore

        secret = os.environ.get(f"{self.variables}_SECRET_KEY")
        try:
            return ObjectStore.from_url(
                self.url,
                endpoint=self.endpoint,
                access_key=os.environ.get(f"{self.variables}_ACCESS_KEY"),
                secret_key=SecretStr(secret) if secret else None,
                secure=bool(self.endpoint and self.endpoint.startswith("https://")),
            )
        except EngramError as error:
            raise engram_fault(error) from error

    @property
    def cortex_settings(self) -> dict[str, Any]:
        """What CORTEX needs to read big results from here; nothing where its own variables say."""
        if os.environ.get("CORTEX_ENGRAM_URL"):
            return {}
        return {
            "engram_url": self.url,
            "engram_endpoint": self.endpoint,
            "engram_access_key": os.environ.get("MNEMOS_ENGRAM_ACCESS_KEY") or None,
            "engram_secret_key": os.environ.get("MNEMOS_ENGRAM_SECRET_KEY") or None,
        }

    @property
    def worker_environment(self) -> dict[str, str]:
        """What a NEURON worker needs to read from here."""
        if self.url.startswith("file://"):
            return {"NEURON_MINIO_ENDPOINT": self.url}
        environment = {
            "NEURON_MINIO_ENDPOINT": (self.endpoint or "").split("://")[-1],
            "NEURON_MINIO_SECURE": str((self.endpoint or "").startswith("https://")).lower(),
        }
        for name in ("ACCESS_KEY", "SECRET_KEY"):
            value = os.environ.get(f"MNEMOS_ENGRAM_{name}")
            if value:
                environment[f"NEURON_MINIO_{name}"] = value
        return environment


def engram_fault(error: EngramError) -> CliError:
    """A storage's error as the command line tells it."""
    code = error.code
    if code == "storage_unavailable":
        return Unreachable(error.message, code=code, hint="check MNEMOS_ENGRAM_URL and its server")
    if code in ("invalid_key", "invalid_artifact", "invalid_key_file"):
        return UsageFault(error.message, code=code)
    hint = None
    if code == "access_denied":
        hint = "check MNEMOS_ENGRAM_ACCESS_KEY and MNEMOS_ENGRAM_SECRET_KEY"
    return CliError(error.message, code=code, hint=hint)
