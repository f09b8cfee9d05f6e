"""What GENOME answers."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from .models import Described, ModelSpec, Version

VersionOrder = Literal["newest", "semver"]


class Model(ModelSpec):
    """A registered model."""

    model_config = ConfigDict(extra="ignore")  # a newer GENOME may say more

    revision: int = 1
    """1, and one more with each replacement of its files or its description as a whole."""
    created_at: AwareDatetime
    updated_at: AwareDatetime
    asked_tag: str | None = None
    """The version tag by which it was asked for; null where it was asked for by its version."""


class ModelSummary(Described):
    """A registered model as it is listed: without its files, its input schema and signature."""

    model_config = ConfigDict(extra="ignore")

    file_count: int
    signed: bool
    version_tags: list[str] = Field(default_factory=list)
    """The version tags that point to it."""
    revision: int = 1
    created_at: AwareDatetime
    updated_at: AwareDatetime


class ModelPage(BaseModel):
    """Models, newest first; `next_cursor` is null on the last page."""

    models: list[ModelSummary]
    next_cursor: str | None = None
    total: int | None = None
    """How many there are on all pages, where that was asked for."""


class VersionInfo(BaseModel):
    """One version of a family."""

    version: str
    created_at: AwareDatetime
    size_bytes: int
    checksum: str
    revision: int
    version_tags: list[str]


class FamilyVersions(BaseModel):
    """Versions of a family in the order asked for; `next_cursor` is null on the last page."""

    family: str
    versions: list[VersionInfo]
    next_cursor: str | None = None


class TagTarget(BaseModel):
    """What a version tag is to point to: a version, not another tag."""

    model_config = ConfigDict(extra="forbid")

    version: Version


class VersionTag(BaseModel):
    """A name that stands for a version of a family."""

    family: str
    tag: str
    version: str
    pinned: bool
    """False for `latest` alone, while it follows the newest registered version by itself."""
    updated_at: AwareDatetime


class VersionTags(BaseModel):
    """A family's version tags, in the order of their names; `latest` is always there."""

    family: str
    tags: list[VersionTag]


class ValidationProblem(BaseModel):
    """One thing that is wrong, and where."""

    field: str | None
    message: str


class ValidationReport(BaseModel):
    """Whether a description could be registered, and if not, what is wrong."""

    valid: bool
    errors: list[ValidationProblem] = Field(default_factory=list)


class ErrorDetail(BaseModel):
    """One sentence for a person, a stable code, and the field at fault if it is one."""

    code: str
    message: str
    field: str | None


class ErrorAnswer(BaseModel):
    """The body of every 4xx and 5xx answer."""

    error: ErrorDetail
