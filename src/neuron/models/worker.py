"""What a worker says about itself."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, Field, IPvAnyAddress, field_validator

from .runtime import RuntimeType

Percent = Annotated[float, Field(ge=0, le=100)]


class WorkerStatus(StrEnum):
    """A worker's states; docs/lifecycle.md draws them."""

    INITIALIZING = "initializing"
    IDLE = "idle"
    BUSY = "busy"
    SHUTTING_DOWN = "shutting_down"
    ERROR = "error"


class WorkerAction(StrEnum):
    """What CORTEX may ask of a worker."""

    SHUTDOWN = "shutdown"
    RESTART = "restart"
    PAUSE = "pause"
    RESUME = "resume"
    UPDATE_CONFIG = "update_config"
    DRAIN = "drain"
    CANCEL_JOBS = "cancel_jobs"


class GPUInfo(BaseModel):
    """One GPU, as NVML reports it."""

    index: int = Field(ge=0)
    name: str
    uuid: str | None = None
    total_memory_mb: int = Field(gt=0)
    available_memory_mb: int = Field(ge=0)
    utilization_percent: Percent
    temperature_celsius: float | None = None
    power_watts: float | None = None


class SystemResources(BaseModel):
    """A snapshot of the machine, or of the container's share of it."""

    cpu_count: int = Field(ge=1)
    cpu_percent: Percent
    memory_total_mb: int = Field(ge=0)
    memory_available_mb: int = Field(ge=0)
    disk_total_gb: float = Field(ge=0)
    disk_available_gb: float = Field(ge=0)
    gpus: list[GPUInfo] = Field(default_factory=list)

    @property
    def memory_percent(self) -> float:
        """Memory in use, in percent."""
        return _used_percent(self.memory_total_mb, self.memory_available_mb)

    @property
    def disk_percent(self) -> float:
        """Disk in use, in percent."""
        return _used_percent(self.disk_total_gb, self.disk_available_gb)


def _used_percent(total: float, available: float) -> float:
    return 0.0 if total <= 0 else 100.0 * (total - available) / total


class WorkerCapabilities(BaseModel):
    """What a worker can run."""

    supported_runtimes: list[RuntimeType] = Field(min_length=1)
    max_concurrent_jobs: int = Field(default=1, ge=1, le=1024)
    supports_streaming: bool = True
    supports_gpu: bool = False
    max_model_size_gb: float = Field(default=40, gt=0)
    max_batch_size: int = Field(default=32, ge=1)
    unavailable_runtimes: dict[str, str] = Field(default_factory=dict)
    """Runtimes the operator asked for that this machine cannot offer, and why."""


class WorkerRegistration(BaseModel):
    """What a worker sends to become known."""

    hostname: str = Field(min_length=1, max_length=253)
    ip_address: str
    version: str
    capabilities: WorkerCapabilities
    resources: SystemResources
    tags: dict[str, str] = Field(default_factory=dict)

    @field_validator("ip_address")
    @classmethod
    def _valid_ip_address(cls, value: str) -> str:
        return str(IPvAnyAddress(value))  # type: ignore[operator]


class LoadedModel(BaseModel):
    """A model that is resident on a worker."""

    family: str
    version: str
    runtime: RuntimeType
    load_seconds: float = Field(default=0, ge=0)
    memory_mb: int = Field(default=0, ge=0)
    active_jobs: int = Field(default=0, ge=0)


class CachedModel(BaseModel):
    """A model whose files lie on the worker's disk, whole."""

    family: str
    version: str
    digest: str = ""


class ModelHint(BaseModel, frozen=True):
    """A model that waiting jobs need and this worker could run."""

    family: str
    version: str
    runtime: str

    @property
    def name(self) -> str:
        """As people write it."""
        return f"{self.family}:{self.version}"


class WorkerInfo(BaseModel):
    """A registered worker."""

    worker_id: str
    hostname: str
    status: WorkerStatus
    capabilities: WorkerCapabilities
    current_jobs: list[str] = Field(default_factory=list)
    total_jobs_completed: int = Field(default=0, ge=0)
    total_jobs_failed: int = Field(default=0, ge=0)
    last_heartbeat: datetime
    registered_at: datetime
    updated_at: datetime
    lease_seconds: float = Field(default=15.0, gt=0)
    """How long a job stays this worker's without a renewal; CORTEX decides."""
    cortex_is_sole: bool = False
    """Whether no other CORTEX gives out the same jobs."""


class Heartbeat(BaseModel):
    """How the worker is, now."""

    worker_id: str
    status: WorkerStatus
    current_jobs: list[str] = Field(default_factory=list)
    resources: SystemResources
    timestamp: AwareDatetime
    models: list[LoadedModel] = Field(default_factory=list)
    status_reason: str = ""
    cached_models: list[CachedModel] = Field(default_factory=list)
    wants_hints: bool = False
    """Whether CORTEX shall say which models to fetch ahead."""


class HeartbeatResponse(BaseModel):
    """CORTEX's answer to a heartbeat."""

    acknowledged: bool
    action: WorkerAction | None = None
    message: str | None = None
