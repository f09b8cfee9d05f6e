"""From a job's inputs to what the engine is asked for each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ...errors import InvalidInputError
from ...models.job import METRICS, JobInput, JobSpec, JobType
from ...models.runtime import RuntimeType
from .scoring import Metric

_KEYS = ("prompt", "messages", "parameters", "context", "id", "reference")
_DEFAULT_METRICS = (Metric.EXACT_MATCH, Metric.F1)
_OF_THE_JOB = frozenset({METRICS, "stream"})
"""Parameters that no row has: what a row brings is streamed whole."""
_OF_A_SCORE = ("raw", "adapter")
"""Parameters that change how likely a given answer is."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it is asked."""

    request: JobInput
    echo: dict[str, Any]
    """The row's id, if it has one."""
    reference: Any = None
    """As it was given: a text, or a list of them; None in a batch."""
    score_request: JobInput | None = None
    """Has the first reference scored, where perplexity is wanted."""

    @property
    def references(self) -> list[str]:
        """The references; none in a batch."""
        if self.reference is None:
            return []
        return [self.reference] if isinstance(self.reference, str) else list(self.reference)


class RowReader:
    """Knows a job's rows; `metrics` are what an evaluation measures, none in a batch."""

    def __init__(self, job: JobSpec) -> None:
        """Raise InvalidInputError where the job has no rows, or wants a metric there is not."""
        if job.input.inputs is None:
            raise InvalidInputError(
                f"a job of the type {job.job_type.value} has its rows in inputs"
            )
        self._inputs = job.input.inputs
        self._context = job.input.context
        self._parameters = {
            name: value for name, value in job.input.parameters.items() if name not in _OF_THE_JOB
        }
        self._has_references = job.job_type is JobType.EVALUATION
        self._takes_tensors = job.model.runtime == RuntimeType.PYTORCH
        self.metrics = _read_metrics(job)

    def echo(self, index: int) -> dict[str, Any]:
        """Return the row's id as its result repeats it; nothing where it has none to repeat."""
        row = self._inputs[index]
        if not isinstance(row, Mapping):
            return {}
        given = row.get("id")
        # A number may be a tensor without dimensions, a text never is one.
        is_id = isinstance(given, str) if self._is_tensors(row) else _is_id(given)
        return {"id": given} if is_id else {}

    def read(self, index: int) -> Row:
        """Return the row.

        Raises:
            InvalidInputError: it is not what a row may be; the sentence says where.
        """
        row = self._inputs[index]
        where = f"inputs[{index}]"
        if isinstance(row, str):
            row = row if self._takes_tensors else {"prompt": row}
        elif not isinstance(row, Mapping):
            raise InvalidInputError(f"{where}: a row is a text or an object")
        reference = self._reference(row, where)
        document = self._tensors(row) if self._is_tensors(row) else self._text(row, where)
        request = _checked(document, where)
        if self._has_references:
            _check_evaluable(request, where)
        return Row(request, self.echo(index), reference, self._score(document, reference, where))

    def _is_tensors(self, row: Any) -> bool:
        return self._takes_tensors and not (
            isinstance(row, Mapping) and ("prompt" in row or "messages" in row)
        )

    def _tensors(self, row: Any) -> dict[str, Any]:
        if isinstance(row, Mapping):
            taken = {"id"} if isinstance(row.get("id"), str) else set()
            taken |= {"reference"} if self._has_references else set()
            row = {name: value for name, value in row.items() if name not in taken}
        return {"inputs": [row], "parameters": self._parameters, "context": self._context}

    def _text(self, row: Mapping[str, Any], where: str) -> dict[str, Any]:
        row = {name: value for name, value in row.items() if value is not None}
        _check_text_row(row, where)
        own = {n: value for n, value in row.get("parameters", {}).items() if n != "stream"}
        return {
            "prompt": row.get("prompt"),
            "messages": row.get("messages"),
            "parameters": self._parameters | own,
            "context": row.get("context", self._context),
        }

    def _reference(self, row: Any, where: str) -> Any:
        given = row.get("reference") if isinstance(row, Mapping) else None
        if not self._has_references:
            if given is not None and not self._is_tensors(row):
                raise InvalidInputError(f"{where}.reference: only evaluation jobs read references")
            return None
        if given is None:
            raise InvalidInputError(f"{where}.reference is missing: an evaluation compares with it")
        texts = [given] if isinstance(given, str) else given
        if not (isinstance(texts, list) and texts and all(isinstance(t, str) for t in texts)):
            raise InvalidInputError(f"{where}.reference: expected a text or a list of texts")
        return given

    def _score(self, document: dict[str, Any], reference: Any, where: str) -> JobInput | None:
        if Metric.PERPLEXITY not in self.metrics:
            return None
        first = reference if isinstance(reference, str) else reference[0]
        if not first:
            raise InvalidInputError(f"{where}.reference: an empty text has no perplexity")
        kept = {name: document["parameters"].get(name) for name in _OF_A_SCORE}
        parameters = {name: value for name, value in kept.items() if value is not None}
        parameters |= {"target": first, "logprobs": 0}
        return _checked(document | {"parameters": parameters}, where)


def _check_text_row(row: Mapping[str, Any], where: str) -> None:
    if unknown := sorted(set(row) - set(_KEYS)):
        raise InvalidInputError(
            f"{where}.{unknown[0]}: a row has no such thing (it may have {', '.join(_KEYS)})"
        )
    if ("prompt" in row) == ("messages" in row):
        raise InvalidInputError(f"{where}: give exactly one of prompt and messages")
    if "id" in row and not _is_id(row["id"]):
        raise InvalidInputError(f"{where}.id: an id is a text or a whole number")
    if not isinstance(row.get("parameters", {}), Mapping):
        raise InvalidInputError(f"{where}.parameters: expected an object")


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _read_metrics(job: JobSpec) -> tuple[Metric, ...]:
    named = job.input.parameters.get(METRICS)
    if job.job_type is not JobType.EVALUATION:
        if named is not None:
            raise InvalidInputError("parameters.metrics: only evaluation jobs measure anything")
        return ()
    if named is None:
        return _DEFAULT_METRICS
    known = list(Metric)
    if not isinstance(named, list) or not named or any(name not in known for name in named):
        raise InvalidInputError(
            f"parameters.metrics: expected a list of some of {', '.join(known)}"
        )
    return tuple(metric for metric in Metric if metric in named)


def _checked(document: dict[str, Any], where: str) -> JobInput:
    try:
        return JobInput.model_validate(document)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join((where, *map(str, problem["loc"])))
        sentence = problem["msg"].removeprefix("Value error, ")
        raise InvalidInputError(f"{place}: {sentence}") from error


def _check_evaluable(request: JobInput, where: str) -> None:
    sampling = request.sampling
    if sampling.n > 1:
        raise InvalidInputError(f"{where}.parameters.n: an evaluation scores one answer for a row")
    if sampling.target is not None:
        raise InvalidInputError(f"{where}.parameters.target: an evaluation scores the reference")
