"""The checks of a job's parameters and of the rows of a batch or an evaluation.

Each raises ApiError 422 that names the place, as `input.inputs[3].reference`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from mnemos.http import describe_validation_errors, invalid_input

from .schemas import EvaluationRow, JobSubmit, Metrics, Sampling, TextRow

ROW_JOB_TYPES = frozenset({"batch_inference", "evaluation"})
_PARAMETERS = ("input", "parameters")


def check_parameters(job: JobSubmit) -> None:
    """Check what a job says of sampling, and of measuring if it is an evaluation."""
    _validate(Sampling, _sampling_of(job), *_PARAMETERS)
    if job.job_type == "evaluation" and "metrics" in job.input.parameters:
        _validate(Metrics, {"metrics": job.input.parameters["metrics"]}, *_PARAMETERS)


def check_rows(job: JobSubmit, runtime: str) -> None:
    """Check that a job whose type has rows has them, and each of them."""
    if job.job_type not in ROW_JOB_TYPES:
        return
    if job.input.inputs is None:
        raise invalid_input(
            f"input.inputs: is missing; a job of type {job.job_type} has its rows there.",
            "input.inputs",
        )
    for index, row in enumerate(job.input.inputs):
        place = ("input", f"inputs[{index}]")
        if job.job_type == "evaluation":
            _check_evaluated(row, runtime, job, place)
        else:
            _check_asked(row, runtime, job, place)


def adapters_of(job: JobSubmit) -> list[str]:
    """Name every adapter that the job or one of its rows runs with, once."""
    asked = [job.input.parameters, *map(_own_parameters, job.input.inputs or ())]
    named = (parameters.get("adapter") for parameters in asked)
    return list(dict.fromkeys(name for name in named if isinstance(name, str)))


def with_adapters(job: JobSubmit, meant: Mapping[str, str]) -> JobSubmit:
    """Put other names of adapters in the places of some."""
    given = job.input
    changes: dict[str, Any] = {"parameters": _with_adapter(given.parameters, meant)}
    if given.inputs is not None:
        changes["inputs"] = [
            {**row, "parameters": _with_adapter(row["parameters"], meant)}
            if _own_parameters(row)
            else row
            for row in given.inputs
        ]
    return job.model_copy(update={"input": given.model_copy(update=changes)})


def _with_adapter(parameters: Mapping[str, Any], meant: Mapping[str, str]) -> Mapping[str, Any]:
    name = parameters.get("adapter")
    if not isinstance(name, str) or name not in meant:
        return parameters
    return {**parameters, "adapter": meant[name]}


def _check_asked(row: Any, runtime: str, job: JobSubmit, place: Sequence[str]) -> None:
    if isinstance(row, str) and row:
        return
    if not isinstance(row, Mapping):
        raise _refused(place, "must be a text or an object")
    if not _is_tensors(row, runtime):
        _check_text_row(TextRow, row, job, place)


def _check_evaluated(row: Any, runtime: str, job: JobSubmit, place: Sequence[str]) -> None:
    if not isinstance(row, Mapping):
        raise _refused(place, "must be an object with a reference")
    if _is_tensors(row, runtime):
        # Its other fields are the model's own; a prompt stands in for them here.
        row = {"prompt": "-", "reference": row.get("reference")}
    _check_text_row(EvaluationRow, row, job, place)
    first = row["reference"] if isinstance(row["reference"], str) else row["reference"][0]
    if not first and "perplexity" in job.input.parameters.get("metrics", ()):
        raise _refused((*place, "reference"), "an empty text has no perplexity")
    parameters = _sampling_of(job) | _own_parameters(row)
    for name, what in (("n", "scores one answer for a row"), ("target", "scores the reference")):
        if parameters.get(name) not in (None, 1):
            raise _refused((*place, "parameters", name), f"an evaluation {what}")


def _is_tensors(row: Mapping[str, Any], runtime: str) -> bool:
    return runtime == "pytorch" and "prompt" not in row and "messages" not in row


def _check_text_row(
    kind: type[TextRow], row: Mapping[str, Any], job: JobSubmit, place: Sequence[str]
) -> None:
    if kind is EvaluationRow and row.get("reference") is None:
        raise _refused((*place, "reference"), "is missing; an evaluation compares with it")
    _validate(kind, row, *place)
    own = _own_parameters(row)
    if own:
        parameters = _sampling_of(job) | own
        parameters.pop("stream", None)  # means nothing to a row: what it brings comes whole
        _validate(Sampling, parameters, *place, "parameters")


def _sampling_of(job: JobSubmit) -> dict[str, Any]:
    """The job's parameters without what only the worker's measuring reads."""
    if job.job_type != "evaluation":
        return job.input.parameters
    return {name: value for name, value in job.input.parameters.items() if name != "metrics"}


def _own_parameters(row: Any) -> dict[str, Any]:
    own = row.get("parameters") if isinstance(row, Mapping) else None
    return own if isinstance(own, dict) else {}


def _validate(kind: type[BaseModel], value: Any, *place: str) -> None:
    try:
        kind.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        for one in errors:
            one["loc"] = (*place, *one["loc"])
        message, field = describe_validation_errors(errors)
        raise invalid_input(message, field) from error


def _refused(place: Sequence[str], reason: str) -> Exception:
    field = ".".join(place)
    return invalid_input(f"{field}: {reason}.", field)
