"""A model's description, as it is registered and as it is given out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from ..engram.digest import manifest_checksum
from ..engram.keys import MAX_KEY_BYTES, NAME_PATTERN, check_bucket, check_name, check_version
from ..engram.names import check_apart
from .checks import (
    GIVEN_OUT,
    allowed_key,
    bounded_json,
    file_path,
    json_schema,
    plain_text,
    problem_in,
    signature,
)

MODELS_BUCKET = "mnemos-models"
MAX_FILES = 10_000
MAX_MODEL_BYTES = 2**53
"""8 PiB: the largest number that every reader of JSON takes as it is."""

ArtifactFormat = Literal["safetensors", "gguf", "torch_export", "torchscript", "pickle"]
RuntimeName = Literal["vllm", "pytorch", "transformers"]

_NAME = WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})
Family = Annotated[
    str, AfterValidator(allowed_key(lambda value: check_name(value, "family"))), _NAME
]
Version = Annotated[str, AfterValidator(allowed_key(check_version)), _NAME]
FilePath = Annotated[str, AfterValidator(file_path)]
Bucket = Annotated[str, AfterValidator(allowed_key(check_bucket))]
Text = Annotated[str, AfterValidator(plain_text)]
Label = Annotated[Text, Field(min_length=1, max_length=128)]
Labels = Annotated[list[Label], Field(max_length=64)]
JsonObject = Annotated[dict[str, Any], AfterValidator(bounded_json)]
InputSchema = Annotated[dict[str, Any] | None, AfterValidator(json_schema)]
Signature = Annotated[dict[str, Any] | None, AfterValidator(signature)]
"""What vouches for the files, as whoever signed made it; GENOME keeps it and does not judge it."""
Description = Annotated[Text, Field(max_length=8192)]


class _Strict(BaseModel):
    """Unknown fields are mistakes and are told, not dropped."""

    model_config = ConfigDict(extra="forbid")


class ModelFile(_Strict):
    """One file of a model: path below the artifact's path, size in bytes, SHA-256 in hex."""

    path: FilePath
    size: int = Field(ge=0, le=2**50)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def _apart(files: list[ModelFile], info: ValidationInfo) -> list[ModelFile]:
    """Every file has a place of its own, also on disks that do not tell A from a."""
    known: set[str] = set()
    for file in files:
        if file.path in known:
            raise ValueError(f"{file.path!r} is there twice")
        known.add(file.path)
    for path in known:
        parts = path.split("/")
        if any("/".join(parts[:end]) in known for end in range(1, len(parts))):
            raise ValueError(f"{path!r} lies below another file")
    if info.context != GIVEN_OUT:
        allowed_key(check_apart)(known)
    return files


def _empty_or_path(value: str, info: ValidationInfo) -> str:
    return file_path(value, info) if value else value


class Artifact(_Strict):
    """Where the files lie. `checksum` is that of the canonical manifest, `size_bytes` the sum."""

    bucket: Bucket = MODELS_BUCKET
    path: FilePath | None = None
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


class Described(_Strict):
    """What is said about a version, without what may be long."""

    family: Family
    version: Version
    name: Annotated[Text, Field(max_length=256)] = ""
    description: Description = ""
    artifact_path: Annotated[str, AfterValidator(_empty_or_path)] = ""
    artifact: Artifact
    runtime: Runtime = Field(default_factory=Runtime)
    requirements: ModelRequirements = Field(default_factory=ModelRequirements)
    capabilities: Labels = Field(default_factory=list)
    tags: Labels = Field(default_factory=list)
    """Labels to search by; version tags such as `prod` are another thing."""
    metadata: JsonObject = Field(default_factory=dict)


class ModelSpec(Described):
    """What is registered. Everything that can be left out is filled in, and checked if given."""

    files: Annotated[
        list[ModelFile], Field(min_length=1, max_length=MAX_FILES), AfterValidator(_apart)
    ]
    input_schema: InputSchema = None
    signature: Signature = None

    @model_validator(mode="before")
    @classmethod
    def _take_back_what_was_given_out(cls, value: Any) -> Any:
        """A description that GENOME gave out can be registered again, without what it added."""
        if cls is ModelSpec and isinstance(value, Mapping):
            return {name: given for name, given in value.items() if name not in ADDED}
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.name = self.name or self.family
        self.artifact_path = self.artifact_path or f"{self.family}/{self.version}"
        self._check_keys()
        self._check_artifact()
        return self

    def _check_keys(self) -> None:
        room = MAX_KEY_BYTES - len(self.artifact_path.encode()) - 1
        for number, file in enumerate(self.files):
            if len(file.path.encode()) > room:
                raise problem_in(
                    f"files.{number}.path",
                    f"with artifact_path before it, it is longer than {MAX_KEY_BYTES} bytes",
                )

    def _check_artifact(self) -> None:
        size = sum(file.size for file in self.files)
        if size > MAX_MODEL_BYTES:
            raise problem_in("files", f"they are larger than {MAX_MODEL_BYTES >> 50} PiB together")
        checksum = manifest_checksum((file.path, file.size, file.sha256) for file in self.files)
        given = self.artifact
        for name, said, true, what in (
            ("path", given.path, self.artifact_path, "artifact_path"),
            ("size_bytes", given.size_bytes, size, "the sum of the files' sizes"),
            ("checksum", given.checksum, checksum, "the digest of the files listed"),
        ):
            if said not in (None, true):
                raise problem_in(f"artifact.{name}", f"{_short(said)} is not {what}, {true}")
        given.path, given.size_bytes, given.checksum = self.artifact_path, size, checksum


ADDED = frozenset({"revision", "created_at", "updated_at", "asked_tag"})
"""What GENOME adds when it gives a model out."""


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


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

    def changes(self) -> dict[str, Any]:
        """The given fields, in JSON's own types.

        null takes away an `input_schema` or a `signature`; elsewhere it changes nothing.
        """
        given = self.model_dump(mode="json", include=self.model_fields_set)
        nullable = ("input_schema", "signature")
        return {
            name: value for name, value in given.items() if value is not None or name in nullable
        }
