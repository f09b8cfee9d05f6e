"""Texts in, a vector or labels for each out: models that read and never write."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm.pooling_params import PoolingParams

from ...errors import ArtifactCorruptError, InvalidInputError, NeuronError
from ...models.job import JobInput, JobOutput
from ..base import Generation
from .arguments import PoolingTask
from .core import Core


@dataclass(frozen=True, slots=True)
class Pooling:
    """A request for one text or more, checked and tokenized."""

    core: Core
    task: PoolingTask
    texts: list[list[int]]
    labels: Sequence[str]
    is_list: bool
    """Whether the result is a list, one entry for each text."""
    metadata: dict[str, Any]
    submitted: float

    async def answer(self) -> AsyncGenerator[Generation, None]:
        """One generation, with the output; cancelling it aborts the requests in vLLM.

        Raises:
            NeuronError: this request failed.
            EngineCrashedError: vLLM's engine core died.
        """
        vectors = await self._vectors()
        results = [self._result(vector) for vector in vectors]
        metadata = {
            **self.metadata,
            "task": self.task,
            "prompt_tokens": sum(map(len, self.texts)),
        }
        if self.task == "embed":
            metadata["dimensions"] = len(vectors[0])
        seconds = time.monotonic() - self.submitted
        yield Generation(
            output=JobOutput(
                result=results if self.is_list else results[0],
                metadata=metadata,
                metrics={"latency_ms": round(seconds * 1000, 2)},
            )
        )

    async def _vectors(self) -> list[list[float]]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self.core.pool(text, PoolingParams(task=self.task)))
                    for text in self.texts
                ]
        except* NeuronError as failures:
            failure = failures.exceptions[0]
        else:
            return [task.result() for task in tasks]
        raise failure

    def _result(self, vector: list[float]) -> list[float] | list[dict[str, Any]]:
        if self.task == "embed":
            return vector
        best = sorted(zip(self.labels, vector, strict=True), key=lambda pair: -pair[1])
        return [{"label": label, "score": score} for label, score in best]


class PoolingPrompts:
    """From a job's input to the texts that the model reads."""

    def __init__(self, tokenizer: Any, folder: Path, model: str, context_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._context_tokens = context_tokens
        self._prefix = _default_prompt(folder, model)

    def texts(self, job_input: JobInput) -> list[list[int]]:
        """Each text's tokens, special tokens included, after the model's default prompt.

        Raises:
            InvalidInputError: the model cannot be asked this.
        """
        if job_input.messages is not None:
            raise InvalidInputError(f"{self._model} reads texts: send a prompt, not messages")
        if job_input.prompt_token_ids is not None:
            raise InvalidInputError(f"{self._model} reads texts: send a prompt, not tokens")
        given = {name for name, value in job_input.parameters.items() if value is not None}
        if senseless := sorted(given - {"stream"}):
            raise InvalidInputError(
                f"{self._model} generates no text: leave {', '.join(senseless)} out of parameters"
            )
        if job_input.context is not None:
            raise InvalidInputError(f"{self._model} reads no context: put it into the prompt")
        if job_input.inputs is None:
            return [self._encode(job_input.prompt or "", "the prompt")]
        return [
            self._encode(text, f"inputs: row {index}")
            for index, text in enumerate(job_input.inputs)
        ]

    def _encode(self, text: Any, where: str) -> list[int]:
        if not isinstance(text, str):
            raise InvalidInputError(f"{where} is no text: {self._model} reads texts alone")
        tokens: list[int] = self._tokenizer.encode(self._prefix + text, add_special_tokens=True)
        if not text or not tokens:
            raise InvalidInputError(f"{where} is empty")
        if len(tokens) > self._context_tokens:
            raise InvalidInputError(
                f"{where} has {len(tokens)} tokens and {self._model} reads at most "
                f"{self._context_tokens}: shorten it",
                prompt_tokens=len(tokens),
                context_tokens=self._context_tokens,
            )
        return tokens


def _default_prompt(folder: Path, name: str) -> str:
    """What sentence-transformers puts before every text of this model."""
    file = folder / "config_sentence_transformers.json"
    try:
        config = json.loads(file.read_text()) if file.is_file() else {}
        prompt: str = (config.get("prompts") or {}).get(config.get("default_prompt_name"), "")
    except (OSError, ValueError, AttributeError) as error:
        raise ArtifactCorruptError(
            f"the files of {name} cannot be read: {file.name}: {error}"
        ) from error
    return prompt
