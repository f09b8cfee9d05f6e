"""What may be asked of the outbox, and how its contents are written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import msgspec
from pydantic import TypeAdapter

from ...models.job import JobResult, StreamChunk
from ...models.lease import AttemptRef, ReleasedJob

Report: TypeAlias = JobResult | ReleasedJob
"""How an attempt ended: with a result, or handed back."""

RESULT, RELEASE = "result", "release"
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    RESULT: TypeAdapter(JobResult),
    RELEASE: TypeAdapter(ReleasedJob),
}


@dataclass(frozen=True, slots=True)
class KeepReport:
    """Keep how an attempt ended, with the chunks that are unacknowledged when it is written."""

    ref: AttemptRef
    report: Report
    unacknowledged: Callable[[], Sequence[StreamChunk]] = tuple
    chunks: tuple[StreamChunk, ...] = field(default=())

    def resolved(self) -> KeepReport:
        """Return it with the chunks of this moment."""
        return replace(self, chunks=tuple(self.unacknowledged()))


@dataclass(frozen=True, slots=True)
class KeepChunks:
    """Keep chunks of an attempt that goes on."""

    ref: AttemptRef
    chunks: tuple[StreamChunk, ...]


@dataclass(frozen=True, slots=True)
class ForgetChunks:
    """Chunks below a sequence number are acknowledged."""

    ref: AttemptRef
    below: int


@dataclass(frozen=True, slots=True)
class Forget:
    """CORTEX has judged the attempt: nothing of it need be kept."""

    ref: AttemptRef


@dataclass(frozen=True, slots=True)
class NameWorker:
    """Remember whose outbox this is; empty to forget."""

    worker_id: str


Change: TypeAlias = KeepReport | KeepChunks | ForgetChunks | Forget | NameWorker


@dataclass(slots=True)
class LeftBehind:
    """What an earlier process could not deliver; reports in the order in which they came."""

    worker_id: str = ""
    reports: dict[AttemptRef, Report] = field(default_factory=dict)
    chunks: dict[AttemptRef, list[StreamChunk]] = field(default_factory=dict)

    @property
    def refs(self) -> list[AttemptRef]:
        """Every attempt of which there is something."""
        return list(dict.fromkeys([*self.reports, *self.chunks]))


def kind_of(report: Report) -> str:
    """Return the name that a report's kind has on disk."""
    return RESULT if isinstance(report, JobResult) else RELEASE


def write_report(report: Report) -> bytes:
    """Return a report as JSON, in which all can be said that can be said on the wire."""
    return _written(_ADAPTERS[kind_of(report)].dump_python(report))


def read_report(kind: str, body: bytes) -> Report:
    """Return what write_report() wrote. Raises ValueError for anything else."""
    if kind not in _ADAPTERS:
        raise ValueError(f"{kind!r} is no kind of report")
    report: Report = _ADAPTERS[kind].validate_python(_read(body))
    return report


def write_chunk(chunk: StreamChunk) -> bytes:
    """Return a chunk as bytes."""
    return _written(chunk.model_dump())


def read_chunk(body: bytes) -> StreamChunk:
    """Return what write_chunk() wrote. Raises ValueError for anything else."""
    return StreamChunk.model_validate(_read(body))


def _written(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=str)


def _read(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
