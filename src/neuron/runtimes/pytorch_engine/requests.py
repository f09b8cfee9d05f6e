"""From a job's input to rows of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import InvalidInputError
from ...models.job import JobInput
from .signature import Signature
from .tensors import RowTensors, read_row
from .text import TextReader

_PARAMETERS = frozenset({"stream"})


class RequestReader:
    """Knows what the model reads; may be used by several threads."""

    def __init__(self, folder: Path, model: str, signature: Signature) -> None:
        self._model = model
        self._signature = signature
        self._text = TextReader(folder, signature, model)

    def read(self, job_input: JobInput) -> list[RowTensors]:
        """The job's rows: one for a prompt, one for each of its inputs. Blocks.

        Raises:
            InvalidInputError: a row is not what the model reads, or the job asks for what only
                models that generate text can do.
        """
        self._check(job_input)
        if job_input.prompt is not None:
            return [self._text.row(job_input.prompt, "prompt")]
        rows = job_input.inputs or []
        return [self._row(row, f"inputs[{place}]") for place, row in enumerate(rows)]

    def _row(self, row: Any, where: str) -> RowTensors:
        if isinstance(row, str):
            return self._text.row(row, where)
        if isinstance(row, dict):
            return read_row(row, self._signature, where)
        names = ", ".join(spec.name for spec in self._signature.inputs)
        raise InvalidInputError(f"{where}: expected an object with {names}, or a text")

    def _check(self, job_input: JobInput) -> None:
        if job_input.messages is not None:
            raise InvalidInputError(f"messages: {self._model} is a custom model, which cannot chat")
        if job_input.prompt_token_ids is not None:
            raise InvalidInputError(f"prompt_token_ids: {self._model} is a custom model")
        if job_input.context is not None:
            raise InvalidInputError(f"context: {self._model} is a custom model and reads none")
        if unknown := sorted(set(job_input.parameters) - _PARAMETERS):
            raise InvalidInputError(
                f"parameters: {unknown[0]} is for models that generate text, and {self._model} "
                "is a custom model; leave it out"
            )
