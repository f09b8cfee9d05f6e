"""From a job's input to the tokens that the model reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ...errors import InvalidInputError
from ...models.job import ChatMessage, JobInput
from ...models.runtime import ToolParser
from ...models.sampling import SamplingParameters
from .tool_words import told_in_words

Tools = Sequence[dict[str, Any]]


class PromptBuilder:
    """Knows the tokenizer, its chat template and the model's context.

    `messages` go through the chat template. A `prompt` is sent as one user message where there
    is a template, else as it stands; `parameters.raw` sends it as it stands anyway, and a prompt
    of tokens is one that stands. `context` is the system message, or the text before the prompt.
    Blocks for as long as tokenizing takes.
    """

    def __init__(
        self,
        tokenizer: Any,
        model: str,
        context_tokens: int,
        vocabulary: int,
        tool_parser: ToolParser = "auto",
    ) -> None:
        self._tokenizer = tokenizer
        self._tool_parser = tool_parser
        self._model = model
        self._vocabulary = vocabulary
        self.context_tokens = context_tokens

    def build(self, job_input: JobInput) -> list[int]:
        """The prompt's tokens.

        Raises:
            InvalidInputError: there is nothing to read, or too much, or the model cannot chat.
        """
        if job_input.inputs is not None:
            raise InvalidInputError(
                "inputs holds rows, and a job of type inference asks for one answer: send the job "
                "with the job type batch_inference, which runs its rows"
            )
        raw, tools = job_input.sampling.raw, job_input.sampling.tools
        if job_input.messages is not None:
            if raw:
                raise InvalidInputError("raw goes with a prompt, not with messages")
            tokens = self._chat(_with_system(job_input.messages, job_input.context), tools)
        elif tools:
            raise InvalidInputError("tools go with messages, not with a prompt")
        elif job_input.prompt_token_ids is not None:
            tokens = self._given(job_input)
        elif raw or not self._tokenizer.chat_template:
            parts = (job_input.context, job_input.prompt)
            tokens = self._encode("\n\n".join(part for part in parts if part), special=True)
        else:
            message = ChatMessage(role="user", content=job_input.prompt or "")
            tokens = self._chat(_with_system([message], job_input.context))
        self._check_length(tokens)
        return tokens

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of a prompt that was given as tokens, special tokens by their names."""
        text: str = self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return text

    def _given(self, job_input: JobInput) -> list[int]:
        tokens = job_input.prompt_token_ids or []
        if job_input.context:
            raise InvalidInputError("context goes with a prompt that is a text")
        if (largest := max(tokens, default=0)) >= self._vocabulary:
            raise InvalidInputError(
                f"prompt_token_ids: {largest} is not a token of {self._model}, which has "
                f"{self._vocabulary}"
            )
        return list(tokens)

    def _chat(self, messages: list[ChatMessage], tools: Tools | None = None) -> list[int]:
        if not self._tokenizer.chat_template:
            raise InvalidInputError(
                f"{self._model} has no chat template: send a prompt instead of messages"
            )
        turns = [_turn(message) for message in messages]
        text = self._render(turns, tools)
        if tools and text == self._render(turns, None):
            if self._tool_parser != "hermes":
                raise InvalidInputError(
                    f"tools: the chat template of {self._model} knows no tools, so the model "
                    "cannot be told of them"
                )
            text = self._render(told_in_words(turns, tools), None)
        return self._encode(text, special=False)

    def _render(self, turns: list[dict[str, Any]], tools: Tools | None) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns,
                tools=list(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:
            raise InvalidInputError(
                f"the chat template of {self._model} refuses these messages: {error}"
            ) from error
        return text

    def _encode(self, text: str, *, special: bool) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=special)
        return tokens

    def _check_length(self, tokens: list[int]) -> None:
        if not tokens:
            raise InvalidInputError("the prompt is empty")
        if len(tokens) >= self.context_tokens:
            raise InvalidInputError(
                f"the prompt has {len(tokens)} tokens and {self._model} reads at most "
                f"{self.context_tokens}, the answer included: shorten the prompt",
                prompt_tokens=len(tokens),
                context_tokens=self.context_tokens,
            )


def _turn(message: ChatMessage) -> dict[str, Any]:
    """As chat templates read it: a call's arguments are an object."""
    turn = message.model_dump(exclude_none=True)
    if message.tool_calls:
        turn["tool_calls"] = [_call(call) for call in message.tool_calls]
    return turn


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _with_system(messages: list[ChatMessage], context: str | None) -> list[ChatMessage]:
    """The context joins a system message that is there, or becomes one."""
    if not context:
        return messages
    if messages[0].role == "system":
        first = ChatMessage(role="system", content=f"{context}\n\n{messages[0].content}")
        return [first, *messages[1:]]
    return [ChatMessage(role="system", content=context), *messages]


def check_tokens(parameters: SamplingParameters, name: str, vocabulary: int) -> None:
    """See that the tokens that the parameters name are the model's. Raises InvalidInputError."""
    for what in ("stop_token_ids", "logit_bias"):
        if (largest := max(getattr(parameters, what), default=0)) >= vocabulary:
            raise InvalidInputError(
                f"{what}: {largest} is not a token of {name}, which has {vocabulary}"
            )
