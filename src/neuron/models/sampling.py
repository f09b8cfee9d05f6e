"""The parameters of a generation, with one meaning on every runtime."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_STOP_STRINGS = 16
MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_BIASED_TOKENS = 1024
MAX_TOOLS = 128
StopString = Annotated[str, Field(min_length=1, max_length=1000)]


class SamplingParameters(BaseModel):
    """How tokens are drawn, and when drawing ends.

    temperature 0 is greedy decoding. top_k -1 (or 0) and top_p 1 switch those filters off. The
    same seed gives the same answer on the same machine. Rounding differs with the size of the
    batch, and where an interrupted answer is taken up: in half precision that may tip a close call
    between two tokens, in float32 hardly ever, and only where the whole vocabulary is drawn from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = Field(default=512, ge=0)
    """0 goes with prompt_logprobs: the prompt is read, and nothing is drawn."""
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
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    """How many answers to draw; with more than one the result is their list."""
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    """Tell every token's log-probability, and those of as many alternatives."""
    prompt_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    """Tell the same of every token of the prompt; the first one has none."""
    logit_bias: dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]] = Field(
        default_factory=dict, max_length=MAX_BIASED_TOKENS
    )
    """What is added to tokens' logits before anything else is done with them."""
    tools: list[dict[str, Any]] | None = Field(default=None, min_length=1, max_length=MAX_TOOLS)
    """What the model may call, in OpenAI's form: its chat template tells it of them."""
    json_schema: dict[str, Any] | None = None
    """The answer is JSON that this schema allows."""
    regex: str | None = Field(default=None, min_length=1, max_length=10_000)
    """The answer matches this expression, whole."""
    choice: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, min_length=1, max_length=1000
    )
    """The answer is one of these."""
    adapter: str | None = Field(default=None, pattern=r"^[^:]+:[^:]+$", max_length=260)
    """A LoRA adapter, family:version in GENOME, that the model runs with."""
    target: str | None = Field(default=None, min_length=1)
    """An answer that is not drawn but given: it is scored, token by token (see logprobs)."""

    @property
    def is_guided(self) -> bool:
        """Whether a grammar decides which tokens may come next."""
        return any(each is not None for each in (self.json_schema, self.regex, self.choice))

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_string_is_a_list(cls, value: object) -> object:
        if value is None:
            return []
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _parameters_agree(self) -> Self:
        guides = ("json_schema", "regex", "choice")
        given = [name for name in guides if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        if self.n > 1 and self.stream:
            raise ValueError("stream goes with n = 1: send one job for each answer")
        if self.target is not None and (self.n > 1 or given):
            raise ValueError(f"target is scored as it stands: leave {(given or ['n'])[0]} out")
        if self.max_tokens == 0 and (self.prompt_logprobs is None or self.n > 1):
            raise ValueError("max_tokens of 0 goes with prompt_logprobs and with n = 1")
        if self.target is not None and self.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs goes without a target")
        return self
