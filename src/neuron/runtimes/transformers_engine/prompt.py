"""From a job's input to the tokens that the model reads."""

from __future__ import annotations

from typing import Any

from ...errors import InvalidInputError
from ...models.job import ChatMessage, JobInput


class PromptBuilder:
    """Knows the tokenizer, its chat template and the model's context.

    `messages` go through the chat template. A `prompt` is sent as one user message where there
    is a template, else as it stands; `parameters.raw` sends it as it stands anyway. `context` is
    the system message, or the text before the prompt. Blocks for as long as tokenizing takes.
    """

    def __init__(self, tokenizer: Any, model: str, context_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._model = model
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
        raw = job_input.sampling.raw
        if job_input.messages is not None:
            if raw:
                raise InvalidInputError("raw goes with a prompt, not with messages")
            tokens = self._chat(_with_system(job_input.messages, job_input.context))
        elif raw or not self._tokenizer.chat_template:
            parts = (job_input.context, job_input.prompt)
            tokens = self._encode("\n\n".join(part for part in parts if part), special=True)
        else:
            message = ChatMessage(role="user", content=job_input.prompt or "")
            tokens = self._chat(_with_system([message], job_input.context))
        self._check_length(tokens)
        return tokens

    def _chat(self, messages: list[ChatMessage]) -> list[int]:
        if not self._tokenizer.chat_template:
            raise InvalidInputError(
                f"{self._model} has no chat template: send a prompt instead of messages"
            )
        try:
            text = self._tokenizer.apply_chat_template(
                [message.model_dump() for message in messages],
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:
            raise InvalidInputError(
                f"the chat template of {self._model} refuses these messages: {error}"
            ) from error
        return self._encode(text, special=False)

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


def _with_system(messages: list[ChatMessage], context: str | None) -> list[ChatMessage]:
    """The context joins a system message that is there, or becomes one."""
    if not context:
        return messages
    if messages[0].role == "system":
        first = ChatMessage(role="system", content=f"{context}\n\n{messages[0].content}")
        return [first, *messages[1:]]
    return [ChatMessage(role="system", content=context), *messages]
