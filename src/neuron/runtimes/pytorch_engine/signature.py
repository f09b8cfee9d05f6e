"""signature.json: what a custom model reads and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...errors import InvalidInputError

FILE_NAME = "signature.json"
ANY = -1
_MAX_BYTES = 4 * 1024 * 1024

DTypeName = Literal[
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"
]
TensorName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Dimension = Annotated[int, Field(ge=ANY)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _TensorSpec(_Strict):
    name: TensorName
    dtype: DTypeName
    shape: list[Dimension] = Field(min_length=1, max_length=16)
    """The first dimension is the batch; -1 stands for any size."""

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch names it."""
        named: torch.dtype = getattr(torch, self.dtype)
        return named

    @property
    def row_shape(self) -> list[int]:
        """The shape of one row: all but the batch."""
        return self.shape[1:]

    @property
    def has_free_dimension(self) -> bool:
        """Whether rows may differ in shape."""
        return ANY in self.row_shape

    def fits(self, row_shape: Sequence[int]) -> bool:
        """Whether a row of that shape is one of these."""
        wanted = self.row_shape
        return len(wanted) == len(row_shape) and all(
            size in (ANY, given) for size, given in zip(wanted, row_shape, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.dtype} of shape {show_shape(self.row_shape)}"


class InputSpec(_TensorSpec):
    """One tensor that the model reads."""

    pad: float | None = None
    """Rows of different sizes are filled up with this at their ends, to share a batch."""
    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _pad_has_a_place(self) -> Self:
        if self.pad is not None and not self.pad.is_integer() and "float" not in self.dtype:
            raise ValueError(f"pad is {self.pad} and the dtype is {self.dtype}")
        return self


class OutputSpec(_TensorSpec):
    """One tensor that the model answers with."""

    labels: list[str] | None = Field(default=None, min_length=1)
    """Names for the places of the last dimension: the answer is labels with scores."""
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    """What makes scores of a labelled output."""
    top_k: int | None = Field(default=None, ge=1)
    """How many of the labels are told, the best first; all by default."""
    encoding: Literal["array", "base64"] = "array"

    @model_validator(mode="after")
    def _labels_have_places(self) -> Self:
        if self.labels is None:
            if self.top_k is not None:
                raise ValueError("top_k goes with labels")
            return self
        if len(self.shape) < 2 or self.shape[-1] not in (ANY, len(self.labels)):
            raise ValueError(f"{len(self.labels)} labels do not fit the shape {self.shape}")
        if self.encoding != "array":
            raise ValueError("labels are not encoded as base64")
        return self


class TextSpec(_Strict):
    """How a text becomes the inputs input_ids, attention_mask and token_type_ids."""

    max_tokens: int | None = Field(default=None, gt=0)
    special_tokens: bool = True


class ModelClass(_Strict):
    """Which installed class the safetensors belong to, and how it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str = Field(alias="class", min_length=1, max_length=256)
    arguments: dict[str, Any] = Field(default_factory=dict)


class Signature(_Strict):
    """The whole file."""

    inputs: list[InputSpec] = Field(min_length=1, max_length=256)
    outputs: list[OutputSpec] = Field(min_length=1, max_length=256)
    text: TextSpec = Field(default_factory=TextSpec)
    model: ModelClass | None = None

    @model_validator(mode="after")
    def _tensors_agree(self) -> Self:
        for kind, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [spec.name for spec in specs]
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"{kind} names {min(twice)} twice")
        first = {spec.shape[0] for spec in self.inputs}
        if len(first) > 1 or 0 in first:
            raise ValueError("the first dimension is the batch, the same for every input")
        free = next((spec.name for spec in self.outputs if spec.has_free_dimension), None)
        if free is not None and any(spec.pad is not None for spec in self.inputs):
            raise ValueError(f"pad needs outputs of fixed shapes, and {free} has a free dimension")
        return self

    @property
    def fixed_batch(self) -> int | None:
        """How many rows every call has, where the model does not leave that open."""
        size = self.inputs[0].shape[0]
        return None if size == ANY else size

    def input(self, name: str) -> InputSpec | None:
        """The input of that name."""
        return next((spec for spec in self.inputs if spec.name == name), None)


def show_shape(shape: Sequence[int]) -> str:
    """A shape for a person: [any, 4]."""
    return "[" + ", ".join("any" if size == ANY else str(size) for size in shape) + "]"


def read_signature(folder: Path, model: str) -> Signature:
    """Read the folder's signature.json; blocks.

    Raises:
        InvalidInputError: it is missing, too large, or says what cannot be; names the field.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise InvalidInputError(
            f"{model} has no {FILE_NAME}, which names a custom model's inputs and outputs"
        )
    if path.stat().st_size > _MAX_BYTES:
        raise InvalidInputError(f"the {FILE_NAME} of {model} has more than {_MAX_BYTES} bytes")
    try:
        return Signature.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise InvalidInputError(
            f"the {FILE_NAME} of {model} is wrong: {where + ': ' if where else ''}{what}"
        ) from error
