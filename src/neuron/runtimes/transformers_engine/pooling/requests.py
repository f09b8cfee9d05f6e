"""From a job's input to texts that the model can read."""

from __future__ import annotations

from typing import Any

from ....errors import InvalidInputError
from ....models.job import JobInput
from ..task import Task
from .batcher import TextRequest

_PARAMETERS = frozenset({"stream"})
_DOES: dict[Task, str] = {"embed": "embeds texts", "classify": "classifies texts"}


class RequestReader:
    """Knows the tokenizer and how much the model reads."""

    def __init__(
        self, tokenizer: Any, model: str, task: Task, context_tokens: int, prefix: str
    ) -> None:
        self._tokenizer = tokenizer
        self._who = f"{model} {_DOES[task]}"
        self._model = model
        self._context_tokens = context_tokens
        self._prefix = prefix

    def read(self, job_input: JobInput) -> TextRequest:
        """The job's texts as tokens: one for a prompt, one for each of its inputs. Blocks.

        Raises:
            InvalidInputError: the job asks for what such a model cannot do, or for too much.
        """
        self._check(job_input)
        if job_input.prompt is not None:
            return TextRequest([self._text(job_input.prompt, "prompt")])
        rows = job_input.inputs or []
        return TextRequest([self._text(row, f"inputs[{place}]") for place, row in enumerate(rows)])

    def _text(self, text: Any, where: str) -> list[int]:
        if not isinstance(text, str):
            raise InvalidInputError(f"{where}: expected a text, got {type(text).__name__}")
        tokens: list[int] = self._tokenizer.encode(self._prefix + text)
        if not tokens:
            raise InvalidInputError(f"{where}: the text has no tokens")
        if len(tokens) > self._context_tokens:
            raise InvalidInputError(
                f"{where}: the text has {len(tokens)} tokens and {self._model} reads at most "
                f"{self._context_tokens}: shorten it"
            )
        return tokens

    def _check(self, job_input: JobInput) -> None:
        if job_input.messages is not None:
            raise InvalidInputError(
                f"messages: {self._who} and cannot chat: send a prompt, or inputs"
            )
        if job_input.prompt_token_ids is not None:
            raise InvalidInputError(f"prompt_token_ids: {self._who}: send a prompt, or inputs")
        if job_input.context is not None:
            raise InvalidInputError(f"context: {self._who} and reads none: put it into the prompt")
        if unknown := sorted(set(job_input.parameters) - _PARAMETERS):
            raise InvalidInputError(
                f"parameters: {unknown[0]} is for models that generate text, and {self._who}; "
                "leave it out"
            )
