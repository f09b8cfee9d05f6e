"""What /v1 takes, and the jobs that come of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .errors import refusal
from .model_names import split_name
from .tools import (
    MAX_TOOLS,
    Schema,
    Tool,
    ToolChoice,
    ToolNamed,
    schema_of_calls,
    schema_of_either,
)

UNTIL_CONTEXT_IS_FULL = 2**31
"""A runtime never says more than fits its model's context."""
COMPLETION_TOKENS = 16
"""What OpenAI's own completions stop at unless told otherwise."""
MAX_PROMPTS = 128
MAX_TEXTS = 2048
TIMEOUT_SECONDS = 600
"""As long as OpenAI's clients wait unless told otherwise."""
INTERACTIVE_PRIORITY = 7
"""Somebody waits: before jobs that were submitted without a priority (5)."""


ModelName = Annotated[str, Field(min_length=1, max_length=260)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
TokenId = Annotated[int, Field(ge=0, lt=2**32)]
Text = str | list[TokenId]
"""A prompt: a text, or the model's own tokens."""


LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=1024),
]


class Strict(BaseModel):
    """A field that nobody knows is refused, and "5" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Strict):
    """What a stream brings beside the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Taken and of no effect: nothing here is padded."""
    continuous_usage_stats: bool | None = None
    """Taken from vLLM's clients and of no effect: the count comes with the last piece."""


class _Request(Strict):
    """What requests have in common. Fields without a use here are taken, as clients send them."""

    model: ModelName
    user: str | None = Field(default=None, max_length=512)
    priority: int = Field(default=INTERACTIVE_PRIORITY, ge=1, le=10)
    """The queue's priority, the highest first; a field of this server's own."""

    def job(self, job_input: dict[str, Any], *, endpoint: str) -> dict[str, Any]:
        """A job as `POST /api/v1/jobs` takes it."""
        family, version = split_name(self.model)
        model = {"family": family} | ({"version": version} if version else {})
        metadata = {"endpoint": endpoint} | ({"user": self.user} if self.user else {})
        return {
            "model": model,
            "input": job_input,
            "priority": self.priority,
            "timeout_seconds": TIMEOUT_SECONDS,
            "metadata": metadata,
        }


class _Sampled(_Request):
    """How tokens are drawn; the second half are fields that vLLM's server has as well."""

    max_tokens: int | None = Field(default=None, ge=1, le=2**31)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=16)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: LogitBias | None = None

    top_k: int | None = Field(default=None, ge=-1, le=2**31)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    min_tokens: int | None = Field(default=None, ge=0, le=2**31)
    ignore_eos: bool | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0, lt=2**32)]] | None = Field(
        default=None, max_length=256
    )

    @model_validator(mode="after")
    def _options_go_with_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream")
        return self

    @property
    def with_usage(self) -> bool:
        """Whether the stream ends with the count of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def choices(self) -> int:
        """How many answers to each prompt."""
        return self.n or 1

    def parameters(self) -> dict[str, Any]:
        """As a job names them; OpenAI's defaults where the request is silent."""
        same = (
            "temperature top_p seed stop presence_penalty frequency_penalty top_k min_p "
            "repetition_penalty min_tokens ignore_eos stop_token_ids logit_bias"
        )
        given = {name: getattr(self, name) for name in same.split()}
        defaults = {"temperature": 1.0, "top_p": 1.0, "max_tokens": UNTIL_CONTEXT_IS_FULL}
        if self.max_tokens is not None:
            given["max_tokens"] = self.max_tokens
        return defaults | {name: value for name, value in given.items() if value is not None}

    def copies(self, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """The parameters of the jobs that answer one prompt: one job, or one a choice to stream."""
        if not self.stream:
            return [parameters | ({"n": self.choices} if self.choices > 1 else {})]
        return [
            parameters | {"stream": True} | _seed_of_choice(parameters, index)
            for index in range(self.choices)
        ]


def _seed_of_choice(parameters: dict[str, Any], index: int) -> dict[str, int]:
    """The seed that a worker gives to the same choice when it draws all of them in one job."""
    if "seed" not in parameters:
        return {}
    return {"seed": (parameters["seed"] + index * 0x9E3779B97F4A7C15) % 2**63}


class TextPart(Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class _Loose(BaseModel):
    """What else is said has no use here: answers are sent back with all that they had."""

    model_config = ConfigDict(extra="ignore", strict=True)


class CalledFunction(_Loose):
    """Which tool was called, with what: JSON in a text."""

    name: str = Field(min_length=1, max_length=128)
    arguments: str


class MadeCall(_Loose):
    """A call that an assistant made."""

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatTurn(_Loose):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[MadeCall] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_call_id: str | None = Field(default=None, max_length=256)

    @model_validator(mode="after")
    def _result_is_of_a_call(self) -> Self:
        if self.role == "tool" and not self.tool_call_id:
            raise ValueError("a message of the role tool has the tool_call_id of its call")
        return self

    def plain(self, called: Mapping[str, str]) -> dict[str, Any]:
        """As jobs have it: a developer speaks as the system, parts are one text.

        `called` has the tools' names by the ids of the calls.
        """
        role = "system" if self.role == "developer" else self.role
        content = self.content or ""
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        turn: dict[str, Any] = {"role": role, "content": content}
        if self.tool_calls and role == "assistant":
            turn["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.tool_call_id and role == "tool":
            turn["tool_call_id"] = self.tool_call_id
            if name := called.get(self.tool_call_id):
                turn["name"] = name
        return turn


class JsonSchemaFormat(Strict):
    """A schema that answers keep to."""

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    json_schema: Schema | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """The form that an answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _schema_is_given(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given for the type json_schema, and only then")
        return self

    def guide(self) -> dict[str, Any]:
        """The parameter that enforces it."""
        if self.type == "text":
            return {}
        schema = self.json_schema.json_schema if self.json_schema else None
        return {"json_schema": schema or {"type": "object"}}


class ChatRequest(_Sampled):
    """`POST /v1/chat/completions`."""

    messages: list[ChatTurn] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs")
        if self.max_tokens is None:
            self.max_tokens = self.max_completion_tokens
        self._check_tools()
        return self

    def _check_tools(self) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tools: there are two of the name {twice[0]}")
        choice = self.tool_choice
        if choice == "required" and not names:
            raise ValueError("tool_choice: there are no tools to choose from")
        if isinstance(choice, ToolNamed) and choice.function.name not in names:
            raise ValueError(f"tool_choice: there is no tool {choice.function.name}")

    def jobs(self, endpoint: str) -> list[dict[str, Any]]:
        """The jobs that answer."""
        parameters = self.parameters()
        if self.logprobs:
            parameters["logprobs"] = self.top_logprobs or 0
        parameters |= self._guide()
        if tools := self._tools():
            parameters["tools"] = [tool.told() for tool in tools]
        calls = [call for turn in self.messages for call in turn.tool_calls or ()]
        called = {call.id: call.function.name for call in calls}
        messages = [turn.plain(called) for turn in self.messages]
        jobs = [
            self.job({"messages": messages, "parameters": copy}, endpoint=endpoint)
            for copy in self.copies(parameters)
        ]
        if tools and self.parallel_tool_calls is False:
            for job in jobs:
                job["metadata"]["parallel_tool_calls"] = False
        return jobs

    def _tools(self) -> list[Tool]:
        """What the model may call."""
        return [] if self.tool_choice == "none" else self.tools or []

    def _guide(self) -> dict[str, Any]:
        """The parameter that holds the answer to its form, or to a call where one must be made."""
        tools, choice = self._tools(), self.tool_choice
        if isinstance(choice, ToolNamed):
            named = [tool for tool in tools if tool.function.name == choice.function.name]
            return {"json_schema": schema_of_calls(named)}
        if choice == "required":
            # Some models would call for ever: they call once unless more is asked for.
            return {"json_schema": schema_of_calls(tools, many=self.parallel_tool_calls is True)}
        guide = self.response_format.guide() if self.response_format else {}
        if guide and tools:
            return {"json_schema": schema_of_either(guide["json_schema"], tools)}
        return guide


class CompletionRequest(_Sampled):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    max_tokens: int | None = Field(default=None, ge=0, le=2**31)
    """0 with `echo`: the prompt is read, and nothing is drawn."""
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)
    best_of: int | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if not self.prompts or len(self.prompts) > MAX_PROMPTS or not all(self.prompts):
            raise ValueError(f"prompt is 1 to {MAX_PROMPTS} prompts, none of them empty")
        if self.best_of is not None and self.best_of != self.choices:
            raise ValueError("best_of is n: every answer that is drawn is told")
        if self.max_tokens == 0 and (not self.echo or self.choices > 1):
            raise ValueError("max_tokens of 0 goes with echo, and with n = 1")
        if self.stream and self.echo and not isinstance(self.prompts[0], str):
            raise ValueError("echo goes without stream where prompts are tokens")
        return self

    @property
    def prompts(self) -> list[Text]:
        """What is to be continued."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        several: list[Any] = [*self.prompt]
        if several and isinstance(several[0], int):
            return [several]  # one prompt of tokens
        return several

    def jobs(self, endpoint: str) -> list[dict[str, Any]]:
        """The jobs that answer, prompt by prompt; prompts go past the chat template."""
        parameters = self.parameters() | {"raw": True}
        if self.max_tokens is None:
            parameters["max_tokens"] = COMPLETION_TOKENS
        if self.logprobs is not None:
            parameters["logprobs"] = self.logprobs
        if self._reads_prompts:
            parameters["prompt_logprobs"] = self.logprobs or 0
        return [
            self.job({_kind(prompt): prompt, "parameters": copy}, endpoint=endpoint)
            for prompt in self.prompts
            for copy in self.copies(parameters)
        ]

    @property
    def _reads_prompts(self) -> bool:
        """Whether the worker must tell of the prompts' own tokens."""
        if not self.echo:
            return False
        is_text = isinstance(self.prompts[0], str)
        return self.logprobs is not None or self.max_tokens == 0 or not is_text


def _kind(prompt: Text) -> str:
    return "prompt" if isinstance(prompt, str) else "prompt_token_ids"


class EmbeddingRequest(_Request):
    """`POST /v1/embeddings`."""

    input: str | list[str]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _texts_are_given(self) -> Self:
        if not self.texts or len(self.texts) > MAX_TEXTS or not all(self.texts):
            raise ValueError(f"input is 1 to {MAX_TEXTS} texts, none of them empty")
        return self

    @property
    def texts(self) -> list[str]:
        """What is to be embedded."""
        return [self.input] if isinstance(self.input, str) else self.input

    def jobs(self, endpoint: str) -> list[dict[str, Any]]:
        """The one job that answers."""
        return [self.job({"inputs": list(self.texts)}, endpoint=endpoint)]


def check_dimensions(asked: int | None, vector: list[float]) -> None:
    """Raises ApiError where the model's vectors have another length than was asked for."""
    if asked is not None and asked != len(vector):
        raise refusal(f"dimensions: the model's vectors have {len(vector)}, not {asked}.")
