"""What is kept of files and batches; times are Unix time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class BatchState(StrEnum):
    """How far a batch is; `cancelling` is what one in progress shows that shall stop."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


OPEN = frozenset({BatchState.VALIDATING, BatchState.IN_PROGRESS, BatchState.FINALIZING})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file in ENGRAM."""

    file_id: str
    purpose: str
    filename: str
    size_bytes: int
    created_at: float
    expires_at: float | None = None
    key_id: str = ""
    """The API key that it was stored with, or whose batch wrote it."""
    whole: bool = True
    """False while it is written; nobody is shown it then."""
    seq: int = 0
    """Its place among all files, the newest last; given by the store."""


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong with a line, or with the whole file (`line` 0)."""

    code: str
    message: str
    line: int = 0
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What only the batch's driver changes."""

    errors: tuple[LineError, ...] = ()
    total: int = 0
    handled: int = 0
    """Lines that became jobs, or faults that are kept."""
    faults: int = 0
    """How many of them are faults."""
    completed: int = 0
    failed: int = 0
    """Both are final once the batch is."""
    times: Mapping[str, float] = field(default_factory=dict)
    """When it came to `in_progress`, `finalizing`, …"""
    has_output: bool = False
    has_errors: bool = False
    ends_as: BatchState = BatchState.COMPLETED
    """What it becomes when its files are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A file of requests, and what becomes of it. Its id is the name of its group of jobs."""

    batch_id: str
    endpoint: str
    input_file_id: str
    output_file_id: str
    error_file_id: str
    metadata: Mapping[str, str]
    created_at: float
    expires_at: float
    state: BatchState = BatchState.VALIDATING
    cancelling_at: float | None = None
    progress: Progress = field(default_factory=Progress)
    key_id: str = ""
    """The API key that it was created with."""
    retry_of: str | None = None
    """The batch whose failed lines these are."""
    output_seconds: float | None = None
    """How long its files are kept; None: until they are deleted."""
    webhooks: tuple[str, ...] = ()
    """The endpoints that are told when it ends."""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that became no job, and why; `error` is JSON as the API tells it."""

    line: int
    custom_id: str
    status: int
    error: str


@dataclass(frozen=True, slots=True)
class EndedLines:
    """Jobs of a batch that have ended, as one reader has counted them."""

    completed: int = 0
    failed: int = 0
    position: int = 0
    """The last one that was counted."""


class UploadState(StrEnum):
    """How far an upload in parts is."""

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file that comes in parts."""

    upload_id: str
    key_id: str
    purpose: str
    filename: str
    size_bytes: int
    """How large it will be, as its uploader says."""
    created_at: float
    expires_at: float
    file_seconds: float | None = None
    """How long the file is kept; None: until it is deleted."""
    state: UploadState = UploadState.PENDING
    file_id: str | None = None
    part_ids: tuple[str, ...] = ()
    """What the file was made of."""
    clean_at: float


class PartVerdict(StrEnum):
    """What became of a part."""

    ADDED = "added"
    ENDED = "ended"
    TOO_MUCH = "too_much"
