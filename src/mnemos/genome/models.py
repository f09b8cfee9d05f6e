"""A model's description, as it is registered and as it is given out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from ..engram.digest import manifest_checksum
from ..engram.keys import check_bucket, check_key, check_name, check_version
from .checks import allowed_key, bounded_json, json_schema

MODELS_BUCKET = "mnemos-models"
MAX_FILES = 10_000

ArtifactFormat = Literal["safetensors", "gguf", "torch_export", "torchscript"]
RuntimeName = Literal["vllm", "pytorch", "transformers"]

Family = Annotated[str, AfterValidator(allowed_key(lambda value: check_name(value, "family")))]
Version = Annotated[str, AfterValidator(allowed_key(check_version))]
Key = Annotated[str, AfterValidator(allowed_key(check_key))]
Bucket = Annotated[str, AfterValidator(allowed_key(check_bucket))]
Label = Annotated[str, Field(min_length=1, max_length=128)]
Labels = Annotated[list[Label], Field(max_length=64)]
JsonObject = Annotated[dict[str, Any], AfterValidator(bounded_json)]
InputSchema = Annotated[dict[str, Any] | None, AfterValidator(json_schema)]
Signature = JsonObject | None
"""What vouches for the files, as whoever signed made it; GENOME keeps it and does not judge it."""
Description = Annotated[str, Field(max_length=8192)]


class _Strict(BaseModel):
    """Unknown fields are mistakes and are told, not dropped."""

    model_config = ConfigDict(extra="forbid")


class ModelFile(_Strict):
    """One file of a model: path below the artifact's path, size in bytes, SHA-256 in hex."""

    path: Key
    size: int = Field(ge=0, le=2**50)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def _apart(files: list[ModelFile]) -> list[ModelFile]:
    """Every file has a place of its own: none is named twice or lies below another."""
    known: set[str] = set()
    for file in files:
        if file.path in known:
            raise ValueError(f"{file.path!r} is there twice")
        known.add(file.path)
    for path in known:
        parts = path.split("/")
        if any("/".join(parts[:end]) in known for end in range(1, len(parts))):
            raise ValueError(f"{path!r} lies below another file")
    return files


def _empty_or_key(value: str) -> str:
    return allowed_key(check_key)(value) if value else value


class Artifact(_Strict):
    """Where the files lie. `checksum` is that of the canonical manifest, `size_bytes` the sum."""

    bucket: Bucket = MODELS_BUCKET
    path: Key | None = None
    format: ArtifactFormat
    size_bytes: int | None = Field(default=None, ge=0)
    checksum: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")


class Runtime(_Strict):
    """How the model is run unless a job says otherwise."""

    type: RuntimeName = "transformers"
    config: JsonObject = Field(default_factory=dict)


class ModelRequirements(_Strict):
    """What a machine must have free, in GiB."""

    min_gpu_memory_gb: float = Field(default=0, ge=0, le=1_000_000, allow_inf_nan=False)
    min_ram_gb: float = Field(default=0, ge=0, le=1_000_000, allow_inf_nan=False)


class ModelSpec(_Strict):
    """What is registered. Everything that can be left out is filled in, and checked if given."""

    family: Family
    version: Version
    name: str = Field(default="", max_length=256)
    description: Description = ""
    artifact_path: Annotated[str, AfterValidator(_empty_or_key)] = ""
    artifact: Artifact
    files: Annotated[
        list[ModelFile], Field(min_length=1, max_length=MAX_FILES), AfterValidator(_apart)
    ]
    runtime: Runtime = Field(default_factory=Runtime)
    requirements: ModelRequirements = Field(default_factory=ModelRequirements)
    capabilities: Labels = Field(default_factory=list)
    tags: Labels = Field(default_factory=list)
    metadata: JsonObject = Field(default_factory=dict)
    input_schema: InputSchema = None
    signature: Signature = None

    @model_validator(mode="before")
    @classmethod
    def _take_back_what_was_given_out(cls, value: Any) -> Any:
        """A description that GENOME gave out can be registered again: its times are its own."""
        if cls is ModelSpec and isinstance(value, Mapping):
            return {k: v for k, v in value.items() if k not in ("created_at", "updated_at")}
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.name = self.name or self.family
        self.artifact_path = self.artifact_path or f"{self.family}/{self.version}"
        self._check_artifact()
        return self

    def _check_artifact(self) -> None:
        for file in self.files:
            allowed_key(check_key)(f"{self.artifact_path}/{file.path}")
        size = sum(file.size for file in self.files)
        checksum = manifest_checksum((file.path, file.size, file.sha256) for file in self.files)
        given = self.artifact
        if given.path not in (None, self.artifact_path):
            raise ValueError(f"artifact.path is not artifact_path ({self.artifact_path!r})")
        if given.size_bytes not in (None, size):
            raise ValueError(f"artifact.size_bytes is not the sum of the files' sizes ({size})")
        if given.checksum not in (None, checksum):
            raise ValueError(f"artifact.checksum is not that of the files ({checksum})")
        given.path, given.size_bytes, given.checksum = self.artifact_path, size, checksum


class Model(ModelSpec):
    """A registered model."""

    created_at: AwareDatetime
    updated_at: AwareDatetime


class ModelUpdate(_Strict):
    """What may change about a registered model; the files may not. Absent fields stay."""

    description: Description | None = None
    runtime: Runtime | None = None
    requirements: ModelRequirements | None = None
    capabilities: Labels | None = None
    tags: Labels | None = None
    metadata: JsonObject | None = None
    input_schema: InputSchema = None
    signature: Signature = None

    def applied_to(self, spec: ModelSpec) -> ModelSpec:
        """Return `spec` with the given fields in place.

        null takes away an `input_schema` or a `signature`; elsewhere it changes nothing.
        """
        changes = {
            name: value
            for name, value in self.model_dump(exclude_unset=True).items()
            if value is not None or name in ("input_schema", "signature")
        }
        return ModelSpec.model_validate(spec.model_dump() | changes)


class ModelPage(BaseModel):
    """Models, newest first; `next_cursor` is null on the last page."""

    models: list[Model]
    next_cursor: str | None = None


class VersionInfo(BaseModel):
    """One version of a family."""

    version: str
    created_at: AwareDatetime
    size_bytes: int


class FamilyVersions(BaseModel):
    """The versions of a family, newest first."""

    family: str
    versions: list[VersionInfo]


class ValidationProblem(BaseModel):
    """One thing that is wrong, and where."""

    field: str | None
    message: str


class ValidationReport(BaseModel):
    """Whether a description could be registered, and if not, everything that is wrong."""

    valid: bool
    errors: list[ValidationProblem] = Field(default_factory=list)
