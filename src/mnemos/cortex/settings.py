"""CORTEX's settings, from CORTEX_* variables."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_data_path
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mnemos.bearer import SHORTEST_SECRET

from .big_results import DEFAULT_BUCKET
from .state_machine import MAX_LOST_WORKERS
from .webhooks.endpoints import EndpointName, WebhookEndpoint


class CortexSettings(BaseSettings):
    """Where CORTEX listens, where it keeps its data, and how patient it is."""

    model_config = SettingsConfigDict(
        env_prefix="CORTEX_",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,  # a URL holds a password
    )

    data_dir: Path = Field(default_factory=lambda: user_data_path("mnemos") / "cortex")
    database_url: SecretStr | None = None
    """PostgreSQL's (postgresql://user:password@host/name); without it, SQLite in `data_dir`."""
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8080, ge=0, le=65535)
    grpc_host: str = "127.0.0.1"
    grpc_port: int = Field(default=9090, ge=0, le=65535)
    genome_url: str | None = None
    """Where models are looked up at submission; without it, jobs must name version and runtime."""
    engram_url: str | None = None
    """Where big results are read from: file:///folder or s3://; without it, readers go there."""
    engram_endpoint: str | None = None
    """The S3 server, as host:port or a URL."""
    engram_access_key: str | None = None
    engram_secret_key: SecretStr | None = None
    result_bucket: str = DEFAULT_BUCKET
    auth: Literal["auto", "required", "off"] = "auto"
    """Whether requests need an API key; auto: once there is one, and always beyond loopback."""
    admin_key: SecretStr | None = None
    """A key that may do everything, besides those that CORTEX keeps."""
    worker_token: SecretStr | None = None
    """What workers show; beyond loopback they show this, or a key with the scope `worker`."""
    genome_token: SecretStr | None = None
    """What GENOME asks for (GENOME_TOKEN)."""
    tls_cert: Path | None = None
    """A certificate with its chain (PEM): both ports then speak TLS."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """Whose certificates workers must show (PEM)."""
    http_tls: bool = True
    """False: HTTP stays plain, behind a proxy that speaks TLS."""
    lease_seconds: float = Field(default=15.0, ge=0.2, le=3600)
    suspect_seconds: float | None = Field(default=None, ge=0, le=3600)
    """How long a worker whose stream broke has to renew; 0: a lease; None: a fifth, 1 to 3 s."""
    heartbeat_timeout_seconds: float = Field(default=90.0, gt=0)
    """A worker not heard for this long is shown as lost."""
    worker_retention_seconds: float = Field(default=86_400.0, gt=0)
    """A worker lost for this long is forgotten."""
    retention_seconds: float = Field(default=30 * 86_400.0, ge=0)
    """A job is forgotten so long after its end; 0 or none: never."""
    stream_retention_seconds: float = Field(default=7 * 86_400.0, ge=0)
    """Its log is dropped so long after its end, at the latest with it; 0 or none: with it."""
    timeout_grace_seconds: float = Field(default=10.0, ge=0)
    """How long after a job's timeout CORTEX ends the attempt itself."""
    max_lost_workers: int = Field(default=MAX_LOST_WORKERS, ge=2, le=1000)
    """So many workers lost under a job are taken for its doing: it is not tried again."""
    batch_share: float = Field(default=0.1, ge=0, le=0.9)
    """The part of the claims that batches are sure of while online jobs wait too."""
    interactive_slots: int | None = Field(default=None, ge=0)
    """So many of each worker's slots are not filled with batches; None: an eighth of them."""
    webhooks: Annotated[dict[EndpointName, WebhookEndpoint], NoDecode] = Field(default_factory=dict)
    """Who is told when a batch ends, by name; JSON (docs/batches.md)."""
    shutdown_grace_seconds: float = Field(default=3.0, ge=0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = "console"

    @field_validator("retention_seconds", "stream_retention_seconds", mode="before")
    @classmethod
    def _none_is_for_ever(cls, value: object) -> object:
        return 0.0 if value is None or value in ("", "none") else value

    @field_validator("webhooks", mode="before")
    @classmethod
    def _is_json(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value or "{}")
        except ValueError as error:
            raise ValueError("must be JSON") from error

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None or not url.get_secret_value():
            return None
        if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return url

    @field_validator("admin_key", "worker_token", "genome_token")
    @classmethod
    def _is_no_guess(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is None or not secret.get_secret_value():
            return None
        if len(secret.get_secret_value()) < SHORTEST_SECRET:
            raise ValueError(f"must have at least {SHORTEST_SECRET} characters")
        return secret

    @property
    def suspicion_seconds(self) -> float:
        """How long a worker whose stream broke has to renew; 0 where none is suspected."""
        if self.suspect_seconds is None:
            return min(3.0, max(1.0, self.lease_seconds / 5))
        return self.suspect_seconds

    @property
    def exposed_hosts(self) -> list[str]:
        """The addresses listened on that other machines may reach."""
        return [host for host in (self.http_host, self.grpc_host) if not _is_loopback(host)]

    @property
    def workers_need_tokens(self) -> bool:
        """Whether calls of workers need a token; a certificate that is asked for does, too."""
        if self.worker_token is not None or self.auth == "off":
            return self.worker_token is not None
        return self.auth == "required" or (self.grpc_exposed and self.tls_client_ca is None)

    @property
    def http_exposed(self) -> bool:
        """Whether other machines may reach the HTTP port."""
        return not _is_loopback(self.http_host)

    @property
    def grpc_exposed(self) -> bool:
        """Whether other machines may reach the gRPC port."""
        return not _is_loopback(self.grpc_host)


def unknown_settings(environment: Mapping[str, str]) -> list[str]:
    """Name the CORTEX_* variables that mean nothing here: perhaps mistyped, so worth a warning.

    Not an error, because a cluster may set some for a service of this name.
    """
    known = {f"CORTEX_{name.upper()}" for name in CortexSettings.model_fields}
    return sorted(name for name in environment if name.startswith("CORTEX_") and name not in known)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
