"""The worker's settings, from NEURON_* variables and .env."""

from __future__ import annotations

import difflib
import os
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from . import __version__
from .errors import ConfigurationError
from .models.runtime import DEFAULT_RUNTIMES, RuntimeType

ENV_PREFIX = "NEURON_"
ENV_FILE = ".env"

CommaSeparated = NoDecode
_DOCUMENTATION_ADDRESS = ("192.0.2.1", 9)


def own_ip_address() -> str:
    """Return the address this machine would send from; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_DOCUMENTATION_ADDRESS)  # UDP: only looks up the route
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address


class _KnownNamesOfDotEnv(DotEnvSettingsSource):
    """A .env file is shared with other programs: their names are not ours to refuse."""

    def __call__(self) -> dict[str, Any]:
        known = self.settings_cls.model_fields
        return {name: value for name, value in super().__call__().items() if name in known}


class Settings(BaseSettings):
    """Everything an operator can say.

    Lists and maps come as comma-separated text, or as such in the constructor.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=ENV_FILE,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    # Who this worker is
    hostname: str = Field(default_factory=socket.gethostname, min_length=1, max_length=253)
    """What this machine is called; its own name unless given."""
    ip_address: str = Field(default_factory=own_ip_address)
    """The address it is shown with; the one that it sends from unless given."""
    version: str = __version__
    """The version that it is shown with."""
    worker_id: str | None = Field(default=None, pattern=r"^wrk_[A-Za-z0-9_-]{1,64}$")
    """Its name in CORTEX, as wrk_name; else CORTEX gives one, and the outbox keeps it."""
    worker_tags: Annotated[dict[str, str], CommaSeparated] = Field(default_factory=dict)
    """What jobs may ask for by name: region=us-west,zone=a."""

    # The neighbours
    cortex_grpc_url: str = Field(default="cortex:9090", min_length=1)
    """Where CORTEX's gRPC port is, as host:port."""
    cortex_timeout: float = Field(default=30, gt=0, le=600)
    """Seconds that a call to CORTEX may take."""
    cortex_token: SecretStr | None = None
    """CORTEX_WORKER_TOKEN, or an API key with the scope worker."""
    cortex_tls: bool = False
    """Speak TLS to CORTEX, by the system's authorities where no file below is given."""
    cortex_ca: Path | None = None
    """Whose certificate CORTEX has (PEM)."""
    cortex_cert: Path | None = None
    """The certificate that this worker shows (PEM)."""
    cortex_key: Path | None = None
    """Its private key (PEM)."""
    genome_http_url: str = Field(default="http://genome:8081", pattern=r"^https?://")
    """Where GENOME answers."""
    genome_timeout: float = Field(default=30, gt=0, le=600)
    """Seconds that a call to GENOME may take."""
    genome_token: SecretStr | None = None
    """What GENOME asks for (GENOME_TOKEN)."""
    minio_endpoint: str = Field(default="engram:9000", min_length=1)
    """Where ENGRAM is: host:port, a URL, or file:///directory."""
    minio_access_key: SecretStr = SecretStr("")
    """Its access key."""
    minio_secret_key: SecretStr = SecretStr("")
    """Its secret key."""
    minio_secure: bool = False
    """Speak TLS to it, where the endpoint is host:port."""

    # What it runs
    supported_runtimes: Annotated[list[RuntimeType], CommaSeparated] = Field(
        default_factory=lambda: list(DEFAULT_RUNTIMES), min_length=1
    )
    """What it runs: vllm, pytorch and transformers unless given; also echo."""
    max_concurrent_jobs: int = Field(default=1, ge=1, le=1024)
    """How many jobs run at a time."""
    max_model_size_gb: float = Field(default=40, gt=0)
    """The most that a model's files may have, in GB."""
    max_batch_size: int = Field(default=32, ge=1, le=1024)
    """How many rows of one job run at a time."""
    max_loaded_models: int = Field(default=8, ge=1, le=64)
    """How many models may be in memory."""
    engine_memory_mb: int | None = Field(default=None, ge=256)
    """The memory for all engines, in MiB; 90 % of what is free at the start unless given."""
    pinned_models: Annotated[list[str], CommaSeparated] = Field(default_factory=list)
    """Models loaded at the start and never unloaded: family:version,family:version."""
    model_idle_seconds: float = Field(default=1800, ge=0)
    """A model unused for so long leaves memory; 0: only when room is needed."""
    engine_stall_seconds: float = Field(default=120, gt=0)
    """An engine that is silent for so long is taken for hung, and killed."""
    input_buckets: Annotated[list[str], CommaSeparated] = Field(
        default_factory=lambda: ["mnemos-artifacts"]
    )
    """The buckets that inputs of jobs may be read from; mnemos-artifacts unless given."""
    model_load_timeout: float = Field(default=1800, gt=0)
    """Seconds that loading a model may take, its download included."""
    model_cache_dir: Path = Path("/tmp/neuron/models")  # noqa: S108
    """Where models are kept on disk."""
    cache_budget_gb: float | None = Field(default=None, gt=0)
    """What they may take there, in GiB; 90 % of what is free unless given."""
    prefetch: bool = True
    """Fetch models of waiting jobs ahead."""
    outbox_dir: Path | None = None
    """Where what CORTEX has not acknowledged is kept; beside the model cache unless given."""
    outbox_mb: int = Field(default=256, ge=1)
    """How much of it, in MB; no jobs are asked for while it is full."""
    result_bucket: str = Field(
        default="mnemos-results", pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
    )
    """Where results go that are too big for a message."""
    max_result_mb: int = Field(default=1024, ge=1, le=10_240)
    """The most that a result may have, in MB."""
    allow_remote_code: bool = False
    """Let models bring code that runs in the engine."""
    allow_pickle: bool = False
    """Load pickled weights, once they have been scanned."""
    require_signatures: bool = False
    """Load only models that a trusted key has signed."""
    signature_keys: Annotated[list[Path], CommaSeparated] = Field(default_factory=list)
    """The trusted public keys (PEM), by commas."""
    vllm_python: str | None = None
    """The Python that has vLLM, where it is not this one."""
    pytorch_python: str | None = None
    """The same for PyTorch."""
    transformers_python: str | None = None
    """The same for Transformers."""

    # How it behaves
    heartbeat_interval: float = Field(default=30, gt=0, le=3600)
    """Seconds between two heartbeats."""
    poll_interval: float = Field(default=1.0, gt=0, le=60)
    """The least seconds between two questions for jobs that brought none."""
    poll_wait: float = Field(default=20, gt=0, le=30)
    """Seconds that CORTEX lets a question for jobs wait."""
    shutdown_timeout: float = Field(default=300, ge=0)
    """Seconds that running jobs have to end after SIGTERM; the rest is handed back."""
    spot_notices: Literal["off", "aws", "gcp", "azure"] = "off"
    """Whose notices of a machine's end are watched for."""
    spot_metadata_url: str | None = Field(default=None, pattern=r"^https?://")
    """Where they are, if not at the cloud's usual address."""

    # What it shows
    api_host: str = "0.0.0.0"  # noqa: S104
    """Where /health, /ready and /metrics answer."""
    api_port: int = Field(default=8000, ge=0, le=65535)
    """Their port; 0 draws one."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    """The least that is written."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """auto: for people at a terminal, JSON elsewhere."""
    otlp_endpoint: str | None = None
    """Where traces go, as http://collector:4317; none are made unless given."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _KnownNamesOfDotEnv(settings_cls), file_secret_settings

    @field_validator("supported_runtimes", mode="before")
    @classmethod
    def _runtimes_from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [name.strip().lower() for name in value.split(",") if name.strip()]
        return list(dict.fromkeys(value)) if isinstance(value, list) else value

    @field_validator("pinned_models", "input_buckets", "signature_keys", mode="before")
    @classmethod
    def _list_from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("pinned_models")
    @classmethod
    def _models_have_versions(cls, value: list[str]) -> list[str]:
        for name in value:
            family, colon, version = name.partition(":")
            if not (family and colon and version):
                raise ValueError(f"{name!r} is not of the form family:version")
        return value

    @field_validator("worker_tags", mode="before")
    @classmethod
    def _tags_from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        tags = {}
        for pair in filter(None, (part.strip() for part in value.split(","))):
            name, equals, text = pair.partition("=")
            if not equals or not name.strip():
                raise ValueError(f"{pair!r} is not of the form name=value")
            tags[name.strip()] = text.strip()
        return tags

    @field_validator("log_level", mode="before")
    @classmethod
    def _level_in_capitals(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("genome_http_url")
    @classmethod
    def _no_trailing_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @model_validator(mode="after")
    def _engram_can_be_named(self) -> Settings:
        scheme, separator, _ = self.minio_endpoint.partition("://")
        if separator and scheme not in ("http", "https", "file"):
            raise ValueError(
                f"minio_endpoint is host:port, http(s)://host:port or file:///dir, not {scheme}://…"
            )
        return self

    @property
    def outbox_folder(self) -> Path:
        """Where what CORTEX has not acknowledged is kept."""
        return self.outbox_dir or self.model_cache_dir.parent / "outbox"

    def interpreter(self, runtime: RuntimeType) -> str | None:
        """Return the Python that the operator named for the runtime's engines, if any."""
        named: dict[RuntimeType, str | None] = {
            RuntimeType.VLLM: self.vllm_python,
            RuntimeType.PYTORCH: self.pytorch_python,
            RuntimeType.TRANSFORMERS: self.transformers_python,
        }
        return named.get(runtime)

    def shown(self) -> dict[str, Any]:
        """Return all settings for display; secrets are masked."""
        return self.model_dump(mode="json")


class ChangeableSettings(BaseModel):
    """What update_config may change while the worker runs."""

    model_config = {"extra": "forbid"}

    max_concurrent_jobs: int | None = Field(default=None, ge=1, le=1024)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] | None = None
    heartbeat_interval: float | None = Field(default=None, gt=0, le=3600)


def load_settings(**given: Any) -> Settings:
    """Read the settings of this process.

    Raises:
        ConfigurationError: an unknown NEURON_* name or a value that cannot be; one sentence.
    """
    _refuse_unknown_names()
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigurationError(describe_validation_error(error)) from None


def _refuse_unknown_names() -> None:
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    in_file = dotenv_values(ENV_FILE) if Path(ENV_FILE).is_file() else {}
    for name in (*os.environ, *in_file):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.0)
            raise ConfigurationError(f"{name} is not a setting of NEURON; did you mean {near[0]}?")


def describe_validation_error(error: ValidationError) -> str:
    """Return one sentence that names each wrong field and what is wrong with it."""
    parts = []
    for problem in error.errors(include_url=False, include_input=True):
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        given = problem.get("input")
        shown = f" (not {given!r})" if isinstance(given, str | int | float) else ""
        parts.append(f"{place}: {message}{shown}" if place else message)
    return "; ".join(parts)
