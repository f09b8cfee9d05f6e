"""The parameters of a generation, with one meaning on every runtime."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

MAX_STOP_STRINGS = 16
StopString = Annotated[str, Field(min_length=1, max_length=1000)]


class SamplingParameters(BaseModel):
    """How tokens are drawn, and when drawing ends.

    temperature 0 is greedy decoding. top_k -1 (or 0) and top_p 1 switch those filters off. The
    same seed gives the same answer on the same machine; in float32 whatever else runs beside the
    job, while in half precision the size of the batch may tip a close call between two tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = Field(default=512, gt=0)
    min_tokens: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.7, ge=0, le=2)
    top_p: float = Field(default=0.9, gt=0, le=1)
    top_k: int = Field(default=-1, ge=-1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    stop: list[StopString] = Field(default_factory=list, max_length=MAX_STOP_STRINGS)
    stop_token_ids: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list, max_length=256)
    ignore_eos: bool = False
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stream: bool = False
    raw: bool = False
    """Send the prompt as it stands, past the model's chat template."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_string_is_a_list(cls, value: object) -> object:
        if value is None:
            return []
        return [value] if isinstance(value, str) else value
