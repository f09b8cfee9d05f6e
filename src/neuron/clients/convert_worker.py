"""Between the worker's pydantic models and the contract's messages: the worker itself."""

from __future__ import annotations

import msgspec
import structlog

from mnemos.protocol.v1 import cortex_pb2 as pb

from ..models.action import Action
from ..models.job import JobType
from ..models.lease import AttemptRef
from ..models.worker import (
    Heartbeat,
    LoadedModel,
    ModelHint,
    SystemResources,
    WorkerAction,
    WorkerCapabilities,
    WorkerRegistration,
    WorkerStatus,
)
from .convert import decode_json, from_duration, to_ref, to_timestamp

logger = structlog.get_logger(__name__)

_STATUS = {status: pb.WorkerStatus.Value(f"WORKER_STATUS_{status.name}") for status in WorkerStatus}
_ACTION_BACK = {pb.ActionKind.Value(f"ACTION_KIND_{kind.name}"): kind for kind in WorkerAction}


def to_registration(
    registration: WorkerRegistration,
    worker_id: str,
    instance_id: str,
    job_types: tuple[JobType, ...],
) -> pb.RegisterWorkerRequest:
    """Return the request that makes the worker known."""
    capabilities = to_capabilities(registration.capabilities)
    capabilities.job_types.extend(pb.JobType.Value(f"JOB_TYPE_{kind.name}") for kind in job_types)
    return pb.RegisterWorkerRequest(
        hostname=registration.hostname,
        ip_address=registration.ip_address,
        version=registration.version,
        capabilities=capabilities,
        resources=to_resources(registration.resources),
        tags=registration.tags,
        worker_id=worker_id,
        instance_id=instance_id,
    )


def to_capabilities(capabilities: WorkerCapabilities) -> pb.WorkerCapabilities:
    """Return the message of what the worker can run: what was asked for less what is lacking."""
    return pb.WorkerCapabilities(
        supported_runtimes=[
            runtime.value
            for runtime in capabilities.supported_runtimes
            if runtime.value not in capabilities.unavailable_runtimes
        ],
        max_concurrent_jobs=capabilities.max_concurrent_jobs,
        supports_streaming=capabilities.supports_streaming,
        supports_gpu=capabilities.supports_gpu,
        max_model_size_gb=capabilities.max_model_size_gb,
        max_batch_size=capabilities.max_batch_size,
        unavailable_runtimes=capabilities.unavailable_runtimes,
    )


def to_resources(resources: SystemResources) -> pb.SystemResources:
    """Return the message of a machine's snapshot."""
    return pb.SystemResources(
        **resources.model_dump(exclude={"gpus"}),
        gpus=[pb.GpuInfo(**gpu.model_dump(exclude_none=True)) for gpu in resources.gpus],
    )


def to_loaded_model(model: LoadedModel) -> pb.LoadedModel:
    """Return the message of a resident model."""
    return pb.LoadedModel(
        family=model.family,
        version=model.version,
        runtime=model.runtime.value,
        load_seconds=model.load_seconds,
        memory_mb=model.memory_mb,
        active_jobs=model.active_jobs,
    )


def to_heartbeat(heartbeat: Heartbeat) -> pb.HeartbeatRequest:
    """Return the heartbeat's message, still without attempts, actions and totals."""
    return pb.HeartbeatRequest(
        worker_id=heartbeat.worker_id,
        status=_STATUS[heartbeat.status],
        resources=to_resources(heartbeat.resources),
        timestamp=to_timestamp(heartbeat.timestamp),
        models=[to_loaded_model(model) for model in heartbeat.models],
        status_reason=heartbeat.status_reason,
        cached_models=[pb.CachedModel(**one.model_dump()) for one in heartbeat.cached_models],
        wants_hints=heartbeat.wants_hints,
    )


def to_refs(refs: list[AttemptRef]) -> list[pb.AttemptRef]:
    """Return the messages that name attempts."""
    return [to_ref(ref) for ref in refs]


def from_hint(message: pb.ModelHint) -> ModelHint:
    """Return a model that is worth fetching ahead."""
    return ModelHint(family=message.family, version=message.version, runtime=message.runtime)


def from_action(message: pb.Action) -> Action | None:
    """Return an action; None, with a log line, for one that this version does not know."""
    kind = _ACTION_BACK.get(message.kind)
    if kind is None:
        logger.warning("unknown_action", action_id=message.action_id, kind=int(message.kind))
        return None
    try:
        config = decode_json(message.config_json, {})
    except msgspec.DecodeError as error:
        logger.warning("action_config_unreadable", action_id=message.action_id, error=str(error))
        config = {}
    return Action(
        action_id=message.action_id,
        kind=kind,
        reason=message.reason,
        jobs=[AttemptRef(job.job_id, job.attempt) for job in message.jobs],
        config=config if isinstance(config, dict) else {},
        deadline_seconds=from_duration(message.deadline) if message.HasField("deadline") else None,
    )
